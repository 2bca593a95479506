"""Templates: the commented configs that ship with the toolkit, found by name."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from engram.config import EngramConfig
from engram.config_file import read_config
from engram.errors import MissingFileError

_SUFFIX = ".yaml"
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def template_names() -> list[str]:
    """Return the names of the templates, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _folder().glob(f"*{_SUFFIX}"))


def template_path(name: str) -> Path:
    """Return the file of a template.

    Raises:
        MissingFileError: There is no such template.
    """
    if name not in template_names():
        raise _missing(name, "no template")
    return _folder() / f"{name}{_SUFFIX}"


def template_title(name: str) -> str:
    """Return the first line of a template's comment: what it is."""
    with template_path(name).open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def load_template(name: str) -> EngramConfig:
    """Read a template.

    Raises:
        MissingFileError: There is no such template.
    """
    return read_config(template_path(name))


def find_config(name_or_path: str | Path) -> Path:
    """Return the file that a user means by a template's name or a path.

    A name is a template, unless a file of that very name is there.

    Raises:
        MissingFileError: There is neither such a template nor such a file.
    """
    path, name = Path(name_or_path), str(name_or_path)
    is_path = path.is_file() or path.suffix in CONFIG_SUFFIXES or path.name != name
    if not is_path and name not in template_names():
        raise _missing(name, "neither a template nor a file here")
    return path if is_path else template_path(name)


def load_config(name_or_path: str | Path) -> EngramConfig:
    """Read a config by a template's name or a file's path.

    Raises:
        ConfigError: Everything that is wrong with it.
        MissingFileError: There is neither such a template nor such a file.
    """
    path = find_config(name_or_path)
    config = read_config(path)
    beside = path.parent / (config.tokenizer or "")
    if config.tokenizer and not Path(config.tokenizer).exists() and beside.exists():
        # A relative path means what it means where the config is.
        return replace(config, tokenizer=str(beside))
    return config


def _missing(name: str, what: str) -> MissingFileError:
    names = template_names()
    near = get_close_matches(name, names, n=1)
    return MissingFileError(
        f"{name!r} is {what}.",
        f"Did you mean {near[0]}?" if near else f"The templates are {', '.join(names)}.",
        name=name,
        templates=names,
    )


def _folder() -> Path:
    """The templates: inside the package in a wheel, beside it in an editable install."""
    here = Path(__file__).parent
    packaged = here / "_templates"
    return packaged if packaged.is_dir() else here.parent / "templates"

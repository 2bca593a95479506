"""Templates: the commented configs that ship with the toolkit, looked up by name."""

import re
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from engram.arguments import checked
from engram.config.config_file import read_config
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import read_from
from engram.errors import InputError, MissingFileError
from engram.layouts import LAYOUTS
from engram.storage.file_names import refuse_empty

_SUFFIX = ".yaml"
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
# Files that show a memory in a checkpoint's folder, each with the key that shows it.
_MEMORY_FILES = ("config.json", "engram_adapter.json")
_STATING = (layout.released.setting(layout.stated_by) for layout in LAYOUTS.values())
_KEYS = "|".join([r"engram\w*", *(setting.theirs[0] for setting in _STATING if setting)])
_MEMORY_KEY = re.compile(rf'"(?:{_KEYS})"\s*:'.encode())


def template_names() -> list[str]:
    """Return the names of the templates.

    Returns:
        Names that `load_config` and ``-c`` take, sorted.

    Examples:
        >>> import engram
        >>> "gpt2" in engram.template_names()
        True
    """
    return sorted(path.name.removesuffix(_SUFFIX) for path in _folder().glob(f"*{_SUFFIX}"))


def template_path(name: str) -> Path:
    """Return the path of a template.

    Raises:
        MissingFileError: There is no such template.
    """
    if name not in template_names():
        raise _missing(name, "not a template")
    return _folder() / f"{name}{_SUFFIX}"


def template_title(name: str) -> str:
    """Return the first line of a template's comment, which describes it."""
    with template_path(name).open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def load_template(name: str) -> EngramConfig:
    """Read a template.

    Raises:
        MissingFileError: There is no such template.
    """
    return read_config(template_path(name))


def is_template(name_or_path: str | Path) -> bool:
    """Whether a name that could also be a path means a template.

    It does, unless there is a file of exactly that name, or a folder with a checkpoint that has a
    memory. The folder of a base model or tokenizer does not hide a template; write ``./gpt2`` to
    mean the folder.
    """
    path = Path(name_or_path)
    if str(name_or_path) not in template_names() or path.is_file():
        return False
    files = [path / name for name in _MEMORY_FILES]
    return not any(_MEMORY_KEY.search(file.read_bytes()) for file in files if file.is_file())


def find_config(name_or_path: str | Path) -> Path:
    """Return the file that a template's name or a path means.

    Args:
        name_or_path: A template's name, see `is_template`, or a path.

    Raises:
        InputError: The path is a folder.
        MissingFileError: There is no such template or file.
    """
    refuse_empty(name_or_path, "the config")
    path, name = Path(name_or_path), str(name_or_path)
    if is_template(name_or_path):
        return template_path(name)
    if path.is_dir():
        raise InputError(
            f"{name} is a folder; a config must be a file.",
            "Give the path of the file, or the name of a template: engram config ls lists them.",
            path=name,
        )
    if not (path.is_file() or path.suffix in CONFIG_SUFFIXES or path.name != name):
        raise _missing(name, "neither a template nor a file here")
    return path


@checked()
def load_config(name_or_path: str | Path) -> EngramConfig:
    """Read a config by a template's name or a file's path.

    A relative path of its tokenizer is looked up in the file's folder first, then in the working
    directory.

    Args:
        name_or_path: A template's name, such as ``gpt2``, or the path of a YAML or JSON file, such
            as ``memory.yaml``; see `find_config`.

    Returns:
        The config, with every default filled in.

    Raises:
        ConfigError: All its problems.
        InputError: The path is a folder.
        MissingFileError: There is neither such a template nor such a file.

    Examples:
        >>> import engram
        >>> engram.load_config("gpt2").layer_ids
        [1, 6]
    """
    path = find_config(name_or_path)
    config = read_config(path)
    if config.tokenizer is None:
        return config
    return replace(config, tokenizer=read_from(config.tokenizer, path.parent))


def given_config(config: EngramConfig | str | Path) -> EngramConfig:
    """Return a config as it is, or read what `load_config` takes."""
    return config if isinstance(config, EngramConfig) else load_config(config)


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
    """Return the templates' folder: in the package in a wheel, beside it in an editable install."""
    here = Path(__file__).parents[1]
    packaged = here / "_templates"
    return packaged if packaged.is_dir() else here.parent / "templates"

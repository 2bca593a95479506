"""Config files: read with every problem and its line, written with every key explained."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from engram.arguments import checked
from engram.config.engram_config import CONFIG_KEYS, EngramConfig
from engram.config.strict_yaml import Mapping, parse_mapping
from engram.config.tokenizer_path import write_to
from engram.errors import ConfigError, MissingFileError, Problem
from engram.storage.files import atomic_write, check_file
from engram.storage.gguf import refuse_gguf

MAX_CONFIG_BYTES = 2**20

_HINT = "`engram config show gpt2` prints a valid config, with every key explained."
_NOT_THERE = "`engram config ls` lists the templates; `engram config new` writes a file."
_MAX_MESSAGE = 400
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


def read_config(path: Path | str) -> EngramConfig:
    """Read a config from a YAML or JSON file.

    Raises:
        ConfigError: All its problems, each with its line and key.
        InputError: It is a GGUF file.
        MissingFileError: There is no such file.
    """
    found = read_mapping(path)
    if "model_type" in found.lines:
        folder = Path(path).parent
        raise ConfigError(
            [Problem("", "this is the config of a checkpoint's model, not of a memory")],
            str(path),
            f"engram report {folder} tells about the memory of a checkpoint, if it has one.",
        )
    problems = list(found.problems)
    if found.lines or not problems:
        try:
            config = EngramConfig.from_dict(found.values)
            if not problems:
                return config
        except ConfigError as error:
            refused = found.lines.keys() - found.values.keys()
            problems += [
                replace(problem, line=found.lines.get(problem.key))
                for problem in error.problems
                if problem.key not in refused
            ]
    raise config_error(problems, path)


def read_values(path: Path | str, hint: str = _HINT, missing: str = _NOT_THERE) -> dict[str, Any]:
    """Read the keys in a config file, without the layout's defaults.

    Args:
        path: The file.
        hint: Next step where it is not a mapping of keys.
        missing: Next step where there is none.

    Raises:
        ConfigError: The file is not a mapping of keys; values are not checked.
        MissingFileError: There is no such file.
    """
    found = read_mapping(path, missing)
    if found.problems:
        raise config_error(found.problems, path, hint)
    return found.values


def dump_config(config: EngramConfig, *, comments: bool = True, title: str = "") -> str:
    """Write a config as YAML that `read_config` reads back equal.

    Args:
        config: The config.
        comments: Whether to explain every key in the line above it.
        title: Title for the first line.
    """
    lines = [f"# {one_line(title)}"] if title else []
    for key, value in config.to_dict().items():
        if comments and key in CONFIG_KEYS:
            lines.append(f"\n# {CONFIG_KEYS[key]}")
        if comments and key == "engram_table_size":
            lines.append(f"# Rows per HEAD: {config.rows_per_head}, this // n_head_per_ngram.")
        lines.append(f"{key}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


@checked()
def write_config(
    path: Path | str,
    config: EngramConfig,
    *,
    comments: bool = True,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Write a config file as `dump_config` does, whole or not at all.

    A tokenizer by a path that starts with ``.`` is written as a path from the file's folder.

    Args:
        path: The file, YAML.
        config: The config.
        comments: Explain every key in the line above it.
        title: What the config is, for the first line.
        overwrite: Replace a file that is there.

    Raises:
        InputError: Something is at the path that may not be replaced.
        MissingFileError: There is no folder to put it into.

    Examples:
        >>> import engram
        >>> engram.write_config("written.yaml", engram.load_config("gpt2"), title="As the template")
    """
    check_file(Path(path), overwrite)
    if config.tokenizer is not None:
        config = replace(config, tokenizer=write_to(config.tokenizer, Path(path).parent))
    with atomic_write(Path(path), "w") as file:
        file.write(dump_config(config, comments=comments, title=title))


def one_line(text: str) -> str:
    """Escape line ends and characters that are not UTF-8: a title may contain a file name."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _scalar(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    # PyYAML would write the string 1e5 without quotes, which is a number in YAML 1.2.
    style = None if not isinstance(value, str) or _BARE.fullmatch(value) else '"'
    text: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=2**31)
    return text.removesuffix("...\n").strip()


def read_mapping(path: Path | str, missing: str = _NOT_THERE) -> Mapping:
    """Read the keys of a YAML or JSON file, each with its line.

    Args:
        path: The file.
        missing: Next step where there is none.

    Raises:
        ConfigError: It is too large or not UTF-8; other problems are returned.
        InputError: It is a GGUF file.
        MissingFileError: There is no such file.
    """
    path = Path(path)
    refuse_gguf(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError.at(path, missing, path=str(path)) from None
    if len(data) > MAX_CONFIG_BYTES:
        raise config_error(
            [Problem("", f"larger than {MAX_CONFIG_BYTES} bytes: not a config file")], path
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        problem = Problem("", message, data.count(b"\n", 0, error.start) + 1)
        raise config_error([problem], path) from None
    # JSON may indent with tabs, which YAML does not allow; JSON strings have them escaped.
    return parse_mapping(text.replace("\t", " ") if path.suffix == ".json" else text)


def config_error(problems: list[Problem], path: Path | str, hint: str = _HINT) -> ConfigError:
    """Return the error for a config file, its problems by line and in bounded length."""
    shortened = [
        replace(problem, message=f"{problem.message[:_MAX_MESSAGE]} ...")
        if len(problem.message) > _MAX_MESSAGE
        else problem
        for problem in sorted(problems, key=lambda each: each.line or 0)
    ]
    return ConfigError(shortened, str(path), hint)

"""Option values: read by functions of the library, and named in errors when it refuses them.

A wrong value of an option is a usage error: exit code 2, with the option, the value and what was
expected. Some are found while the command line is read (`reader`), others only when the library
combines them with a model or a template (`blaming`). Wrong contents of a file stay input errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from engram.errors import ConfigError, InputError, UsageError
from engram.storage.dtypes import TABLE_DTYPES, dtype_name, gguf_dtype_name
from engram.units import parse_bytes, parse_count

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig
    from engram_cli.output import Output

T = TypeVar("T")


def reader(read: Callable[[str], T]) -> Callable[[str], T]:
    """Make an option's parser from a function that raises `InputError` for wrong values."""

    def read_value(text: str) -> T:
        try:
            return read(text)
        except InputError as error:
            raise typer.BadParameter(f"{error.message} {error.hint}".rstrip()) from None

    return read_value


read_count = reader(parse_count)
read_bytes = reader(parse_bytes)
read_dtype = reader(dtype_name)
read_gguf_dtype = reader(gguf_dtype_name)

DTYPES = ", ".join(TABLE_DTYPES)


def read_named(out: Output, name: str) -> EngramConfig:
    """Read the config of a file or template, and note a folder of that name."""
    from engram.config.templates import load_config

    note_folder(out, name)
    return load_config(name)


def note_folder(out: Output, name: str) -> None:
    """Tell the user that a name is taken for a template although a folder has it, too."""
    from engram.config.templates import is_template

    if is_template(name) and Path(name).is_dir():
        out.note(f"{name} means the template; ./{name} means the folder here, which has no memory.")


@contextmanager
def blaming(
    ctx: typer.Context, sources: Mapping[str, Sequence[str]], general: str = ""
) -> Iterator[None]:
    """Name the options whose values the library refuses in the block.

    Args:
        ctx: The call; only options given in it are named.
        sources: By config key, or by name of an error's value: the command's parameters that
            determine it, the most direct one first. Of several values, the first of these is named.
        general: A parameter that may determine any key.

    Raises:
        UsageError: The library refused values of options; other errors pass unchanged.
    """
    try:
        yield
    except InputError as error:
        if isinstance(error, ConfigError):
            refused = [
                (it.key, it.message if it.message.endswith("?") else f"{it.message}.")
                for it in error.problems
            ]
        else:
            known = [key for key in sources if key in error.details]
            given = [key for key in known if _first_given(ctx, [*sources[key], general])]
            refused = [(key, error.message) for key in given[:1]]
        flags: list[str] = []
        lines = []
        for key, text in refused:
            names = sources.get(key, ())
            name = _first_given(ctx, [*names, general])
            if name is None:
                raise
            flags += _flags(ctx, [name])
            about = "" if name in names[:1] else f"{key}: "
            lines.append(f"Invalid value for '{flags[-1]}': {about}{text}")
        if not lines:
            raise
        hint = error.hint or f"See {ctx.command_path} --help."
        raise UsageError("\n".join(lines), hint, options=flags) from None


def given_flags(ctx: typer.Context, names: Sequence[str]) -> list[str]:
    """Return the options among the parameters of those names that the user gave.

    Args:
        ctx: The call.
        names: Parameters of the command.
    """
    return _flags(ctx, [name for name in names if _first_given(ctx, [name])])


def _flags(ctx: typer.Context, names: Sequence[str]) -> list[str]:
    """Return options as the user writes them."""
    return [param.opts[-1] for name in names for param in ctx.command.params if param.name == name]


def _first_given(ctx: typer.Context, names: Sequence[str]) -> str | None:
    sources = ((name, ctx.get_parameter_source(name)) for name in names)
    return next((name for name, it in sources if it and it.name == "COMMANDLINE"), None)


def given_words(ctx: typer.Context) -> list[str]:
    """Return the words of a command's call after its name, in the order of its parameters.

    Args:
        ctx: The call.
    """
    words: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if _first_given(ctx, [name]) is None:
            continue
        value = ctx.params[name]
        if param.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            words.append((param.opts if value else param.secondary_opts)[-1])
        else:
            several = value if isinstance(value, (list, tuple)) else [value]
            if not param.multiple:  # a list that one word states, such as 1,6
                several = [",".join(map(str, several))]
            words += [word for each in several for word in (param.opts[-1], str(each))]
    return words

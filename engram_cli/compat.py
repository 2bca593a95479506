"""Seams to typer: every undocumented name that the command line uses."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from engram.seams import Seam

PACKAGE = "typer"
# Typer carries its own copy of Click, so its class of usage errors has no public name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

__all__ = ["PACKAGE", "SEAMS", "USAGE_ERROR", "TyperCommand", "TyperGroup"]


def described(param: Any) -> Any:
    """Return what typer noted of a parameter it reads through pydantic: its annotation and info.

    Returns:
        An object with `annotation` and `parameter_info`; None for parameters of another kind, and
        in releases that read none that way.
    """
    return param.type_descriptor if hasattr(param, "_runtime_param") else None


def annotation_of(param: Any) -> Any:
    """Return the annotation of a parameter; None where typer does not tell."""
    return getattr(getattr(param, "type_descriptor", None), "annotation", None)


def read_with(param: Any, reader: Any) -> None:
    """Have a parameter read its values with an object that has ``coerce(value, param, ctx)``."""
    param._runtime_param = reader


def _usage_errors() -> bool:
    return issubclass(USAGE_ERROR, Exception) and USAGE_ERROR.__name__ == "UsageError"


def _help_pages() -> bool:
    names = ("get_params", "format_options", "format_epilog", "collect_usage_pieces")
    groups = ("list_commands", "get_command", "resolve_command", "parse_args", "format_commands")
    return all(callable(getattr(TyperCommand, name, None)) for name in names) and all(
        callable(getattr(TyperGroup, name, None)) for name in (*groups, "make_context", "invoke")
    )


def _readers() -> bool:
    def command(count: int = 1) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(command)
    (param,) = [it for it in typer.main.get_command(app).params if it.name == "count"]
    found = described(param)
    return found is None or (found.annotation is int and hasattr(found, "parameter_info"))


SEAMS = (
    Seam(
        "typer.core.TyperCommand and TyperGroup", "help pages and commands made late", _help_pages
    ),
    Seam("BadParameter.__mro__[1]", "wrong calls end with 2 and name the option", _usage_errors),
    Seam(
        "param._runtime_param", "values are read without pydantic, whose import is slow", _readers
    ),
)

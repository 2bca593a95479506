"""Seams to typer: the undocumented names that the command line uses."""

from __future__ import annotations

from typing import Any

import typer
from typer import completion
from typer.core import CompletionItem, TyperCommand, TyperGroup  # type: ignore[attr-defined]

from engram.seams import Seam, callable_seam

PACKAGE = "typer"
PROGRAM = "engram"
# Typer has its own copy of Click, so its class of usage errors has no public name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

__all__ = ["PACKAGE", "SEAMS", "USAGE_ERROR", "TyperCommand", "TyperGroup"]


def described(param: Any) -> Any:
    """Return typer's description of a parameter: its annotation and its info.

    Returns:
        An object with `annotation` and `parameter_info`; None for parameters without one, such as
        the help option, and in releases that have no such descriptions.
    """
    return getattr(param, "type_descriptor", None)


def read_with(param: Any, reader: Any) -> None:
    """Have a parameter read its values with an object that has ``coerce(value, param, ctx)``."""
    param._runtime_param = reader


# The variable set by a shell's completion function, as in the output of `--show-completion`.
COMPLETE_VARIABLE = "_ENGRAM_COMPLETE"


def complete(group: Any, instruction: str) -> int:
    """Answer a shell that completes a command line; return the exit code.

    Args:
        group: The root of the commands.
        instruction: Value of `COMPLETE_VARIABLE`, such as "complete_bash".
    """
    completion.get_completion_inspect_parameters()  # registers the known shells
    return completion.shell_complete(group, {}, PROGRAM, COMPLETE_VARIABLE, instruction)


def completion_item(value: str, help: str) -> Any:
    """Return one completion, as a group's `shell_complete` lists them."""
    return CompletionItem(value, help=help)


def _usage_errors() -> bool:
    return issubclass(USAGE_ERROR, Exception) and USAGE_ERROR.__name__ == "UsageError"


def _readers() -> bool:
    def command(count: int = 1) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(command)
    (param,) = [it for it in typer.main.get_command(app).params if it.name == "count"]
    found = described(param)
    if found is None:  # older releases read values without pydantic
        return True
    known = found.annotation is int and hasattr(found, "parameter_info")
    return known and hasattr(param, "_runtime_param")


# Methods of commands, and of groups of commands, that are overridden here.
_OF_COMMANDS = (
    *("get_params", "collect_usage_pieces", "format_options", "format_epilog"),
    "parse_args",
)
_OF_GROUPS = (
    *("get_params", "format_commands", "format_epilog", "list_commands", "get_command"),
    *("resolve_command", "parse_args", "make_context", "invoke"),
)

SEAMS = (
    *(
        callable_seam("typer.core", f"TyperCommand.{name}", "help pages of commands")
        for name in _OF_COMMANDS
    ),
    *(
        callable_seam("typer.core", f"TyperGroup.{name}", "importing commands only when called")
        for name in _OF_GROUPS
    ),
    *(
        callable_seam("typer.completion", name, "completion of commands in shells")
        for name in (
            *("get_completion_inspect_parameters", "install_callback"),
            *("show_callback", "shell_complete"),
        )
    ),
    callable_seam("typer.core", "CompletionItem", "completion of commands in shells"),
    Seam(
        "BadParameter.__mro__[1]",
        "ending usage errors with exit code 2 and naming the option",
        _usage_errors,
    ),
    Seam(
        "param.type_descriptor, param._runtime_param",
        "reading values without pydantic, whose import is slow",
        _readers,
    ),
)

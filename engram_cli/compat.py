"""Seams to typer: the undocumented names that the command line uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer
from typer import completion
from typer.core import CompletionItem, TyperCommand, TyperGroup  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from engram.seams import Probed

PROGRAM = "engram"
# Typer has its own copy of Click, so its class of usage errors has no public name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

__all__ = ["USAGE_ERROR", "CompletionItem", "TyperCommand", "TyperGroup"]


# Placeholders for the values of options that do not name their own.
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_WHAT = {int: "a whole number", float: "a number"}


def prepare(params: list[Any]) -> list[Any]:
    """Have parameters of simple types read without pydantic, with plain placeholders in help.

    Recent releases of typer read every value through pydantic, whose import would double the
    start-up time of a command. Older releases, and parameters of other types, are left unchanged.

    Returns:
        The same parameters.
    """
    for param in params:
        found = getattr(param, "type_descriptor", None)
        if found is None:
            continue
        info, annotation = found.parameter_info, found.annotation
        if param.param_type_name == "option" and param.metavar is None:
            param.metavar = _METAVARS.get(annotation)
        if get_origin(annotation) is list:
            (annotation,) = get_args(annotation)
        is_checked = any((info.exists, info.writable, info.resolve_path, info.path_type))
        if (
            info.parser is not None
            or annotation in (bool, int, float, str)
            or (annotation is Path and not is_checked and info.file_okay and info.dir_okay)
            or get_origin(annotation) is Literal
        ):
            param._runtime_param = _PlainValue(annotation, info)
    return params


class _PlainValue:
    """Replacement for typer's reader of one parameter: the same method, without pydantic.

    Typer's caller adds the parameter to the errors.
    """

    def __init__(self, annotation: Any, info: Any) -> None:
        self.annotation = annotation
        self.info = info

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Read one value, or each of several."""
        if param.multiple or param.nargs == -1:
            return tuple(map(self._read, value or ()))
        return None if value is None else self._read(value)

    def _read(self, value: Any) -> Any:
        if self.info.parser is not None:
            # Defaults have the right type already.
            return self.info.parser(value) if isinstance(value, str) else value
        choices = get_args(self.annotation)
        if choices:
            if value not in choices:
                listed = ", ".join(map(str, choices))
                raise typer.BadParameter(f"{value!r} is not one of {listed}.")
            return value
        try:
            read = self.annotation(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not {_WHAT[self.annotation]}.") from None
        if self.info.min is not None and read < self.info.min:
            raise typer.BadParameter(f"{read} is not at least {self.info.min}.")
        if self.info.max is not None and read > self.info.max:
            raise typer.BadParameter(f"{read} is not at most {self.info.max}.")
        return read


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


def _usage_errors() -> bool:
    return issubclass(USAGE_ERROR, Exception) and USAGE_ERROR.__name__ == "UsageError"


def _readers() -> bool:
    def command(count: int = 1) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(command)
    (param,) = [it for it in typer.main.get_command(app).params if it.name == "count"]
    found = getattr(param, "type_descriptor", None)
    return found is None or (  # older releases read values without pydantic
        found.annotation is int
        and hasattr(found, "parameter_info")
        and hasattr(param, "_runtime_param")
    )


_COMPLETION = "completion of commands in shells"
# Undocumented names that are called or overridden: by module, and by their use.
_CALLED = (
    (
        "typer.core",
        "help pages of commands",
        *("TyperCommand.get_params", "TyperCommand.collect_usage_pieces"),
        *("TyperCommand.format_options", "TyperCommand.format_epilog", "TyperCommand.parse_args"),
    ),
    (
        "typer.core",
        "importing commands only when called",
        *("TyperGroup.get_params", "TyperGroup.format_commands", "TyperGroup.format_epilog"),
        *("TyperGroup.list_commands", "TyperGroup.get_command", "TyperGroup.resolve_command"),
        *("TyperGroup.parse_args", "TyperGroup.make_context", "TyperGroup.invoke"),
    ),
    (
        "typer.completion",
        _COMPLETION,
        *("get_completion_inspect_parameters", "install_callback"),
        *("show_callback", "shell_complete"),
    ),
    ("typer.core", _COMPLETION, "CompletionItem"),
)


def probed() -> list[Probed]:
    """Probe every seam to typer."""
    from engram.seams import Seam, callable_seam, probe

    called = (callable_seam(module, name, use) for module, use, *names in _CALLED for name in names)
    return probe(
        "typer",
        [
            *called,
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
        ],
    )

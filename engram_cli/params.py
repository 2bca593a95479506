"""Reads the values of options and arguments without pydantic.

Recent releases of typer read every value through pydantic, whose import would double the start-up
time of a command. Older releases, and parameters of other types, are left unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from engram_cli.compat import described, read_with

_WHAT = {int: "a whole number", float: "a number"}


class _PlainValue:
    """Replacement for typer's reader of one parameter: the same method, without pydantic."""

    def __init__(self, annotation: Any, info: Any) -> None:
        self.annotation = annotation
        self.parser = info.parser
        self.low = info.min
        self.high = info.max

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Read one value, or each of several."""
        if param.multiple or param.nargs == -1:
            return tuple(self._read(item, param, ctx) for item in value or ())
        return None if value is None else self._read(value, param, ctx)

    def _read(self, value: Any, param: Any, ctx: Any) -> Any:
        if self.parser is not None:
            # Defaults have the right type already. Typer's caller adds the parameter to the error.
            return self.parser(value) if isinstance(value, str) else value
        if get_origin(self.annotation) is Literal:
            choices = get_args(self.annotation)
            if value not in choices:
                raise typer.BadParameter(
                    f"{value!r} is not one of {', '.join(map(str, choices))}.", ctx=ctx, param=param
                )
            return value
        try:
            read = self.annotation(value)
        except ValueError:
            raise typer.BadParameter(
                f"{value!r} is not {_WHAT[self.annotation]}.", ctx=ctx, param=param
            ) from None
        below = self.low is not None and read < self.low
        if below or (self.high is not None and read > self.high):
            limit = f"at least {self.low}" if below else f"at most {self.high}"
            raise typer.BadParameter(f"{read} is not {limit}.", ctx=ctx, param=param)
        return read


def read_plainly(params: list[Any]) -> list[Any]:
    """Have parameters of simple types read without pydantic; return all parameters."""
    for param in params:
        found = described(param)
        if found is not None:
            info, annotation = found.parameter_info, found.annotation
            if get_origin(annotation) is list:
                (annotation,) = get_args(annotation)
            if _is_plain(annotation, info):
                read_with(param, _PlainValue(annotation, info))
    return params


def _is_plain(annotation: Any, info: Any) -> bool:
    if info.parser is not None:
        return True
    if annotation is Path:
        checks = (info.exists, info.writable, info.resolve_path, info.path_type)
        return not any(checks) and info.file_okay and info.dir_okay
    return annotation in (bool, int, float, str) or get_origin(annotation) is Literal

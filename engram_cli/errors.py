"""Turns exceptions into messages, JSON lines and exit codes."""

import errno
import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import typer

from engram.errors import EngramError, EngramWarning, MissingFileError, MissingPackageError
from engram.storage.full_disk import full_disk
from engram_cli.compat import USAGE_ERROR
from engram_cli.output import drop_closed_stdout, printable

# Exit code of a command ended by Ctrl-C, by the convention of shells.
INTERRUPTED = 130
# Modules whose distribution has another name.
_DISTRIBUTIONS = {"yaml": "pyyaml"}


class Failure(NamedTuple):
    """An error in the form that users and scripts get.

    Attributes:
        code: Short name of the kind of error, stable across versions.
        message: The problem, its place and the offending value.
        hint: The next step; empty when there is none.
        exit_code: Exit code of the process.
        details: The values by name, for programs.
    """

    code: str
    message: str
    hint: str
    exit_code: int
    details: dict[str, Any]

    def to_json(self) -> str:
        """Return this failure as one JSON line."""
        told = {key: value for key, value in self._asdict().items() if key != "exit_code"}
        return json.dumps({"schema": "engram.error/1", **told}, default=str)

    def to_text(self) -> str:
        """Return the message and, on its own line, the hint."""
        text = self.message if self.code == "interrupted" else f"Error: {self.message}"
        return f"{text}\n{self.hint}" if self.hint else text


def failure_of(error: BaseException) -> Failure:
    """Return the failure to report for an exception."""
    if isinstance(error, EngramError):
        return Failure(error.code, error.message, error.hint, error.exit_code, error.details)
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    if module is not None and "." not in module and not module.startswith("engram"):
        package = _DISTRIBUTIONS.get(module, module)
        return failure_of(MissingPackageError(package, None, "This command"))
    if isinstance(error, USAGE_ERROR):
        context: Any = getattr(error, "ctx", None)
        hint = f"See {context.command_path if context else 'engram'} --help."
        param: Any = getattr(error, "param", None)
        details = {"options": [param.opts[-1]]} if param is not None else {}
        message = error.format_message()  # type: ignore[attr-defined]
        return Failure("usage", message, hint, 2, details)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", "Interrupted.", "", INTERRUPTED, {})
    if isinstance(error, MemoryError):
        return Failure("does_not_fit", "Out of memory.", "", 5, {})
    if (full := full_disk(error, getattr(error, "filename", None))) is not None:
        return failure_of(full)
    if isinstance(error, OSError) and error.errno is not None:
        return _os_failure(error)
    if _follows_interrupt(error):
        return failure_of(KeyboardInterrupt())
    return Failure(
        "bug",
        f"{type(error).__name__}: {error}. This is a bug in engram, not in your input.",
        "Please report it with the output of `engram env`; ENGRAM_DEBUG=1 shows the traceback.",
        1,
        {},
    )


def _follows_interrupt(error: BaseException | None) -> bool:
    """Whether an error took the place of Ctrl-C, as one of Python's own locks may."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _os_failure(error: OSError) -> Failure:
    path = None if error.filename is None else str(error.filename)
    message = f"{path}: {error.strerror}." if path else f"{error.strerror}."
    details = {"path": path, "errno": errno.errorcode.get(error.errno or 0)}
    if isinstance(error, FileNotFoundError):
        return failure_of(MissingFileError.at(path or "A file", **details))
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Failure("network", message, "Check the network, or give a local folder.", 4, details)
    if isinstance(error, PermissionError):
        hint = "Change its permissions, or choose another path."
        return Failure("no_permission", message, hint, 3, details)
    if error.errno == errno.EROFS:
        return Failure("no_permission", message, "Choose a path on another disk.", 3, details)
    return Failure("bad_input", message, "", 3, details)


def run(action: Callable[[], object], *, as_json: bool) -> int:
    """Run a command, and report its errors.

    Args:
        action: The command.
        as_json: Whether an error is one JSON line on stderr instead of text.

    Returns:
        The exit code.
    """
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *more: Any, **options: Any) -> None:
        if issubclass(category, EngramWarning):  # as the command line's own, without a line of code
            print(printable(f"Warning: {message}"), file=sys.stderr, flush=True)
        else:
            show(message, category, *more, **options)

    with warnings.catch_warnings():
        warnings.showwarning = tell
        return _run(action, as_json)


def _run(action: Callable[[], object], as_json: bool) -> int:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    code = 0
    try:
        try:
            action()
        except typer.Exit as end:
            code = end.exit_code
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and drop_closed_stdout():
            return 0
        failure = failure_of(error)
        with suppress(BrokenPipeError):
            if os.environ.get("ENGRAM_DEBUG") == "1":
                import traceback

                traceback.print_exception(error)
            text = failure.to_json() if as_json else printable(failure.to_text())
            print(text, file=sys.stderr, flush=True)
        code = failure.exit_code
    return code

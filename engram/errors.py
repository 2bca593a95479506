"""The errors that the library raises.

Every error carries what went wrong, the value that caused it, and the next step. The library never
prints or exits: the command line turns these into a message, one JSON line and an exit code.

    EngramError
    ├── UsageError           exit 2   an invalid call, such as options that exclude each other
    ├── InputError           exit 3   invalid input
    │   ├── ConfigError                 a config, with every problem found in it
    │   ├── LayoutError                 not possible in a layout; ids or tables of another layout
    │   └── CorruptFileError            a file that is torn, truncated, foreign or inconsistent
    ├── MissingError         exit 4   something needed is missing
    │   ├── MissingFileError            a file, folder or model
    │   ├── MissingPackageError         a Python package, with the command that installs it
    │   └── DependencyError             a package in an unsupported version
    └── NoError              exit 5   a valid question whose answer is no
        ├── DoesNotFitError             a budget, a device or a disk is too small
        └── MismatchError               two things that must be equal differ
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class EngramError(Exception):
    """Base of every error of this library.

    Args:
        message: The problem, its place and the offending value, in one or two sentences.
        hint: The next step, often a command; may be empty.
        **details: The values by name, for programs (``--json`` prints them).

    Attributes:
        code: A short name of the kind of error, stable across versions.
        exit_code: Exit code of a command that ends with this error.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Makes every class picklable, whatever arguments its constructor takes.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class EngramWarning(UserWarning):
    """Something that works, but not as well as it should; the message says why."""


class UsageError(EngramError):
    """The call makes no sense as it stands."""

    code = "usage"
    exit_code = 2


class InputError(EngramError):
    """Something that was given is wrong."""

    code = "bad_input"
    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    Attributes:
        key: The config key, or "" for the file as a whole.
        message: What is wrong with it and what would be right.
        line: 1-based line in the file, None when the config did not come from a file.
    """

    key: str
    message: str
    line: int | None = None


class ConfigError(InputError):
    """A config with problems; all of them, not only the first."""

    code = "bad_config"

    def __init__(self, problems: list[Problem], source: str = "config", hint: str = "") -> None:
        lines = [
            f"  {source}{f':{it.line}' if it.line else ''}: "
            f"{f'{it.key}: ' if it.key else ''}{it.message}"
            for it in problems
        ]
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            f"{count} in {source}:\n" + "\n".join(lines),
            hint,
            source=source,
            problems=[vars(problem) for problem in problems],
        )
        self.problems = problems


class LayoutError(InputError):
    """Something that a layout cannot express, or that does not fit its tables."""

    code = "layout"


class CorruptFileError(InputError):
    """A file that is torn, truncated, foreign or lies about its own contents."""

    code = "corrupt_file"


class MissingError(EngramError):
    """Something that is needed is not there."""

    code = "missing"
    exit_code = 4


class MissingFileError(MissingError):
    """A file, folder or model that is not there, here or on the hub."""

    code = "missing_file"

    @classmethod
    def at(cls, path: object, hint: str = "Check the path.", /, **details: Any) -> MissingFileError:
        """Return the error for a path that does not exist.

        Args:
            path: The path, as it was given.
            hint: See `EngramError`.
            **details: See `EngramError`.
        """
        return cls(f"{path} does not exist.", hint, **details)


class MissingPackageError(MissingError):
    """A Python package that is not installed.

    Args:
        package: Its distribution name.
        extra: Extra of the toolkit that brings it; None when none does.
        purpose: Use that needs it, as the subject of a sentence.
    """

    code = "missing_package"

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = package if extra is None else f"'engram-toolkit[{extra}]'"
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed.",
            f"pip install {wanted}",
            package=package,
            extra=extra,
        )


class DependencyError(MissingError):
    """A package that is installed in a version the toolkit does not work with.

    Attributes:
        probed: Results of all probes, of `engram.seams`; empty where nothing was probed.
    """

    code = "dependency"
    probed: tuple[Any, ...] = ()


class NoError(EngramError):
    """The question was understood; the answer is no."""

    code = "no"
    exit_code = 5


class DoesNotFitError(NoError):
    """A budget, a device or a disk is too small."""

    code = "does_not_fit"


class MismatchError(NoError):
    """Two things that had to be equal are not."""

    code = "mismatch"

"""`Check`: one thing that was checked, and its verdict; `Checks`: all of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engram.errors import EngramError, MissingError, MissingFileError

# The verdict (None if it could not be checked), and the detail.
Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the check, in a word or two.
        ok: The verdict; None if it could not be checked.
        detail: The result, or the reason that it could not be checked.
    """

    name: str
    ok: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return {True: "ok", False: "FAILED", None: "not checked"}[self.ok]


@dataclass(frozen=True, repr=False)
class Checks:
    """Checks of one thing, in order.

    Attributes:
        about: The thing, in the terms of ``--json``: schema, and target or folder.
        checks: What was checked.
    """

    about: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether none of them failed; checks that could not run do not count."""
        return all(check.ok is not False for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __repr__(self) -> str:
        failed = ", ".join(check.name for check in self.checks if check.ok is False)
        return f"<Checks: {f'{failed} FAILED' if failed else f'{len(self.checks)}, none failed'}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what a command that verifies prints with ``--json``."""
        return {**self.about, "ok": self.ok, "checks": [vars(check) for check in self.checks]}


def run_check(name: str, check: Callable[..., Verdict], *arguments: Any) -> Check:
    """Run a check with its arguments; an error that it raises is a failed check.

    Raises:
        MissingError: A package is missing, or in a version that does not work, which says nothing
            about the thing that is checked.
    """
    try:
        ok, detail = check(*arguments)
    except (EngramError, OSError, KeyError, ValueError) as error:
        if not is_about_files(error):
            raise
        ok, detail = False, what_happened(error)
    return Check(name, ok, detail)


def is_about_files(error: Exception) -> bool:
    """Whether an error is about the thing checked, rather than about installed packages."""
    return isinstance(error, MissingFileError) or not isinstance(error, MissingError)


def what_happened(error: Exception) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, EngramError):
        return error.message
    return f"{type(error).__name__}: {error}"


def first_of(problems: list[str]) -> str:
    """Return the first problem, and the number of others."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def verdict(problems: list[str], right: str, unknown: str = "") -> Verdict:
    """Return the verdict on something with problems, or without any.

    Args:
        problems: What is wrong.
        right: What is right, when nothing is wrong.
        unknown: Why that cannot be said, when nothing is wrong that could be checked.
    """
    if problems:
        return False, first_of(problems)
    return (None, unknown) if unknown else (True, right)

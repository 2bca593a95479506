"""`Check`: one thing that was checked of a folder of results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        ok: Whether it is right; None when it could not be checked.
        detail: What was seen, with the file and the value where something is wrong.
    """

    name: str
    ok: bool | None
    detail: str


def check_of(name: str, wrong: list[str], right: str) -> Check:
    """Return the check that lists what is wrong, the first five, or says what is right."""
    more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Check(name, not wrong, "; ".join(wrong[:5]) + more if wrong else right)

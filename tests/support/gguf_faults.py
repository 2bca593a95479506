"""Codes of the faults of GGUF files, and the dialects that can have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engram
from support.gguf_memories import BY_NAME, constants


def having(*facts: str, layout: str | None = None) -> list[str]:
    """Names of the dialects with keys for facts."""
    return [
        name
        for name in sorted(BY_NAME)
        if all(it in BY_NAME[name].facts and not BY_NAME[name].facts[it].is_tensor for it in facts)
        and layout in (None, BY_NAME[name].layout)
    ]


def codes(path: Path, **options: Any) -> set[str]:
    """Codes of a file's faults, and the names of checks that failed."""
    checks = engram.verify(path, **options)
    faults = [fault for check in checks for fault in getattr(check, "faults", ())]
    assert all(fault["message"] and fault["repair"] for fault in faults)
    assert checks.ok == (not faults and all(check.ok is not False for check in checks))
    return {fault["code"] for fault in faults}


def facts_of(name: str) -> Any:
    """Return the constants that are written for a dialect."""
    return constants(BY_NAME[name].layout)

"""Repairs of GGUF files, as `engram convert --repair` runs and shows them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import UsageError
from engram.units import format_bytes
from engram_cli.output import Output, Shown, Table

if TYPE_CHECKING:
    from engram.checkpoints.convert.gguf_repair_result import Repaired

_FILES = {"written": "written anew", "linked": "linked", "copied": "copied"}


def repair(out: Output, source: str, output: Path, *, dry_run: bool, **options: Any) -> None:
    """Repair a GGUF file and show what was mended.

    Args:
        out: Where to.
        source: The model.
        output: The file or folder to write.
        dry_run: Write nothing.
        **options: See `engram.repair_gguf`.
    """
    import engram

    with out.progress("Repairing") as step:
        done = engram.repair_gguf(source, output, dry_run=dry_run, progress=step, **options)
    out.result(done.to_dict(), _show(done))
    if done.written and done.files:
        target = "" if done.engine is None else f" --target {done.engine}"
        out.next_step(f"engram verify {shlex.quote(str(output))}{target}")


def demand_alone(options: dict[str, Any], repairs: bool) -> None:
    """Refuse options of conversions beside a repair, and those of a repair without one.

    Args:
        options: Those of conversions, or else of repairs, by name, as they were given.
        repairs: Whether a repair was asked for.

    Raises:
        UsageError: One was given.
    """
    if given := next((name for name, value in options.items() if value), None):
        why = "goes with conversions" if repairs else "goes with --repair"
        raise UsageError(f"{given} {why} alone.", f"Leave {given} out.", option=given)


def _show(done: Repaired) -> Shown:
    if not done.files:
        yield f"{done.source} has nothing to mend: nothing was written."
        return
    verb = "Mended" if done.written else "Would mend"
    yield Table(
        [(fault.code, fault.message) for fault in done.mended],
        ("fault", "what was wrong"),
        left=("fault", "what was wrong"),
    )
    yield Table(
        [
            (it.action, it.detail, it.name)
            if it.action == "renamed"
            else (it.action, it.name, it.detail)
            for it in done.changes
        ],
        ("change", "key or tensor", "as"),
        left=("change", "key or tensor", "as"),
    )
    yield Table(
        [(file.name, format_bytes(file.bytes), _FILES[file.origin]) for file in done.files],
        ("file", "size", "what"),
        left=("file", "what"),
    )
    yield f"{verb} {done.source}, dialect {done.dialect}."

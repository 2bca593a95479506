"""Who does the work of a command on a text: this machine, or Ray."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from engram.errors import UsageError

if TYPE_CHECKING:
    from engram.corpus.ray_engine import RayEngine

KEPT = "What is finished is kept: go on with --resume, or start over with --overwrite."


def find_engine(
    engine: Literal["local", "ray"], address: str | None, workers: int, reads_stdin: bool
) -> AbstractContextManager[RayEngine | None]:
    """Return what works while a block runs; nothing is started before.

    Args:
        engine: Value of ``--engine``.
        address: Value of ``--address``.
        workers: CPUs of a Ray that is started here.
        reads_stdin: Whether the text comes from standard input.

    Raises:
        UsageError: The options exclude each other.
    """
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address} is that of a Ray.", "Add --engine ray.")
        return nullcontext()
    if reads_stdin:
        raise UsageError(
            "Workers of Ray cannot read this command's standard input.",
            "Write it to a file first, or leave out --engine ray.",
        )
    from engram.corpus.ray_engine import RayEngine

    return RayEngine(address, workers)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

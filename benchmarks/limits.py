"""Measures what this machine can do at most: its memory, its disk and its digests."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

_BYTES = 2**28
_ROUNDS = 5


def limits(folder: Path | None = None) -> dict[str, float]:
    """Measure rates in GB/s, by text: medians of five rounds.

    Args:
        folder: On the disk to measure; that of temporary files when None.
    """
    block = np.ones(_BYTES, dtype=np.uint8)
    into = np.empty_like(block)
    with tempfile.NamedTemporaryFile(dir=folder) as file:

        def write() -> None:
            file.seek(0)
            file.write(block.data)
            file.flush()
            os.fsync(file.fileno())

        return {
            "memory filled on one thread": _rate(lambda: into.fill(0)),
            "memory copied on one thread": _rate(lambda: np.copyto(into, block)),
            "file written and synced": _rate(write),
            "sha256 on one thread": _rate(lambda: hashlib.sha256(block.data).digest()),
        }


def _rate(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return _BYTES / 1e9 / statistics.median(seconds)

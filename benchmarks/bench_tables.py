"""Times look-ups in a table on disk against plain numpy, cold and warm.

8,192 random rows of 256 bytes a look-up. Cold: the file is dropped from the page cache before every
look-up, and the map is new; ours is set against indexing a numpy memmap, which reads ahead, and
against the same with MADV_RANDOM, which waits for one row after the other. Warm: the file is in the
page cache and mapped; ours is set against np.take of an array in memory, both from the same number
of rows. Rounds of all forms are interleaved, and a ratio is the median over rounds.

How bad reading ahead is depends on the disk's read-ahead and on the table: of a small table it soon
has read everything.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import Ratio, finish, parser_of, times_as_fast

from engram.nn import DiskEmbedding

LOOKUPS, WIDTH, ROW_BYTES = 8192, 64, 256
PROMISES = {"memmap": 20.0, "MADV_RANDOM": 5.0, "np.take in memory": 0.95}
WARM_BYTES = 2**30
DROPPED = 0.01  # a smaller share of pages in memory counts as none


def write_table(path: Path, size_bytes: int) -> int:
    """Write a table of random bits and return its number of rows."""
    block = np.random.default_rng(0).integers(0, 256, 2**26, dtype=np.uint8)
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size // ROW_BYTES


def drop(path: Path) -> float:
    """Drop a file from the page cache; return the share of 1,000 sampled pages that stayed."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for _ in range(20):  # pages that are still being read cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            stayed = share_in_memory(file)
            if stayed < DROPPED:
                break
            time.sleep(0.2)
        # Asking was enough to have some of them read.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
    return stayed


def share_in_memory(file: int) -> float:
    """Return the share of 1,000 sampled pages that are in the page cache."""
    found, byte = 0, bytearray(1)
    for offset in np.random.default_rng().integers(0, os.fstat(file).st_size, 1000).tolist():
        try:
            found += os.preadv(file, [byte], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
    return found / 1000


def mapped(path: Path, advice: int | None) -> Any:
    """Map a table, as rows of bytes."""
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if advice is not None:
        view.madvise(advice)
    return np.frombuffer(view, dtype=np.uint8).reshape(-1, ROW_BYTES)


def bench_cold(path: Path, rows: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Time look-ups of rows that are on the disk only.

    Returns:
        Seconds by form and round, and the largest share of pages that could not be dropped.
    """
    forms: dict[str, Callable[[], Callable[[torch.Tensor], Any]]] = {
        "memmap": lambda: mapped(path, None).__getitem__,
        "MADV_RANDOM": lambda: mapped(path, mmap.MADV_RANDOM).__getitem__,
        "ours": lambda: DiskEmbedding(path, 0, rows, WIDTH),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    stayed = 0.0
    for _ in range(rounds):
        for name, make in forms.items():
            stayed = max(stayed, drop(path))
            look_up, ids = make(), torch.randint(0, rows, (LOOKUPS,))
            asked = ids if name == "ours" else ids.numpy()
            start = time.perf_counter()
            found = look_up(asked)
            seconds[name].append(time.perf_counter() - start)
            assert len(found) == LOOKUPS
            del look_up, found  # pages that are mapped cannot be dropped
    return seconds, stayed


def bench_warm(path: Path, rows: int, rounds: int, calls: int = 20) -> dict[str, list[float]]:
    """Time look-ups of rows that are in the page cache and mapped.

    Returns:
        Seconds a look-up, by form and round.
    """
    rows = min(rows, WARM_BYTES // ROW_BYTES)
    disk = DiskEmbedding(path, 0, rows, WIDTH)
    cached = DiskEmbedding(path, 0, rows, WIDTH, cache_rows=rows // 10)
    in_ram = np.fromfile(path, dtype="<f4", count=rows * WIDTH).reshape(rows, WIDTH)
    for first in range(0, rows, 2**16):
        disk(torch.arange(first, min(rows, first + 2**16)))
    batches = [torch.randint(0, rows, (LOOKUPS,)) for _ in range(calls)]
    assert np.array_equal(disk(batches[0]).numpy(), in_ram[batches[0]], equal_nan=True)
    forms: dict[str, Callable[[torch.Tensor], Any]] = {
        "np.take in memory": lambda ids: np.take(in_ram, ids.numpy(), axis=0),
        "ours": disk,
        "ours, cache_rows=10%": cached,
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(rounds + 1):
        for name, look_up in forms.items():
            start = time.perf_counter()
            for ids in batches:
                look_up(ids)
            if round_:
                seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def compare(key: str, seconds: dict[str, list[float]], others: dict[str, str]) -> list[Ratio]:
    """Return how many times the rows a second of others ours has; `others` are their texts."""
    rates = {name: LOOKUPS / statistics.median(times) / 1e6 for name, times in seconds.items()}
    return [
        Ratio(
            f"{key}-{name.replace(' ', '-')}",
            f"{key} look-up of {LOOKUPS:,} rows of {ROW_BYTES} bytes in a file",
            text,
            times_as_fast(seconds[name], seconds["ours"]),
            at_least=PROMISES[name],
            note=f"{rates['ours']:.3g} against {rates[name]:.3g} million rows a second",
        )
        for name, text in others.items()
    ]


def main() -> None:
    """Measure both, cold and warm."""
    parser = parser_of(__doc__)
    parser.add_argument("--gib", type=float, help="size of the table (4; 1 with --quick)")
    parser.add_argument("--folder", type=Path, help="where the table is written for a while")
    options = parser.parse_args()
    torch.manual_seed(int(time.time()))
    gib = options.gib or (1 if options.quick else 4)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "table"
        rows = write_table(path, int(gib * 2**30))
        cold, stayed = bench_cold(path, rows, options.rounds)
        others = {
            "memmap": "indexing a numpy memmap",
            "MADV_RANDOM": "the same without reading ahead (MADV_RANDOM)",
        }
        found = compare("cold", cold, others)
        if stayed >= DROPPED:
            print(f"NOT COLD: {stayed:.1%} of the pages stayed in the page cache")
        warm = bench_warm(path, rows, options.rounds)
        found += compare("warm", warm, {"np.take in memory": "np.take of an array in memory"})
    finish(found, options.json)


if __name__ == "__main__":
    main()

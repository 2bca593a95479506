"""Times training steps of a table in a file, beside a process that fills the memory.

A step looks up 12,600 random rows of 256 bytes that are on the disk only, and updates them and
their state by row-wise Adagrad. It is set against the time that the disk takes for as many random
4-KiB pages of the same file, read in that of several ways which has the lowest median: requests
ahead of the reads, and pools of threads, with the page cache and without. Rounds are interleaved,
the file is dropped from the page cache before each, no page is read twice, and the ratio is the
median over rounds. The note tells the rate of a commit.
"""

from __future__ import annotations

import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_tables import DROPPED, drop
from measured import Ratio, finish, parser_of, times_as_fast
from torch import nn

from engram.nn import FileEmbedding, MultiHeadEmbedding
from engram.nn.file_table import FileRows
from engram.storage.row_journal import Journal
from engram.storage.safetensors_headers import read_header
from engram.storage.table_files import make_zeros
from engram.training import MemoryOptimizer

ROWS, WIDTH, PAGE = 12_600, 64, 4096
TARGET = 2.0
HOLD = """
import sys, numpy, time
held = [numpy.ones(2**27, dtype=numpy.uint8) for _ in range(int(float(sys.argv[1]) * 8))]
print("held", flush=True)
while sys.stdin.read(1):
    pass
"""


def write_table(path: Path, size_bytes: int) -> None:
    """Write a table of random values, page by page onto the disk."""
    make_zeros(path, "table", "F32", (size_bytes // (4 * WIDTH), WIDTH))
    start = read_header(path)["table"].start
    block = np.random.default_rng(0).normal(size=2**24).astype(np.float32).tobytes()
    with path.open("r+b") as file:
        file.seek(start)
        left = size_bytes // (4 * WIDTH) * (4 * WIDTH)
        while left:
            left -= file.write(block[: min(left, len(block))])
        file.flush()
        os.fsync(file.fileno())


def ask_and_read(path: Path, offsets: list[int]) -> None:
    """Request all pages, then read them."""
    file, page = os.open(path, os.O_RDONLY), bytearray(PAGE)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in offsets:
        os.posix_fadvise(file, offset, PAGE, os.POSIX_FADV_WILLNEED)
    for offset in offsets:
        os.preadv(file, [page], offset)
    os.close(file)


def ask_by_two(path: Path, offsets: list[int]) -> None:
    """Request and read pages on two threads."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: ask_and_read(path, part), (offsets[::2], offsets[1::2])))


def read_by(threads: int, flags: int) -> Callable[[Path, list[int]], None]:
    """Return a reader of pages with so many threads."""

    def run(path: Path, offsets: list[int]) -> None:
        file = os.open(path, os.O_RDONLY | flags)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)

        def part(own: list[int]) -> None:
            page = mmap.mmap(-1, PAGE)  # aligned, as reading past the page cache needs
            for offset in own:
                os.preadv(file, [page], offset)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, [offsets[first::threads] for first in range(threads)]))
        os.close(file)

    return run


WAYS: dict[str, Callable[[Path, list[int]], None]] = {
    "fadvise": ask_and_read,
    "fadvise, 2 threads": ask_by_two,
    "16 threads": read_by(16, 0),
    "64 threads, O_DIRECT": read_by(64, os.O_DIRECT),
}


def share_cached(path: Path, offsets: list[int]) -> float:
    """Drop a file from the page cache; return the share of pages to be read that stayed."""
    drop(path)
    file, byte, found = os.open(path, os.O_RDONLY), bytearray(1), 0
    for offset in offsets[:: len(offsets) // 1000]:
        try:
            found += os.preadv(file, [byte], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
    # Asking was enough to have some of them read.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    return found / len(offsets[:: len(offsets) // 1000])


class Memory(nn.Module):
    """One table, as in a memory."""

    def __init__(self, table: FileEmbedding) -> None:
        super().__init__()
        self.heads = MultiHeadEmbedding([table.num_embeddings], table.embedding_dim, table=table)


def bench(folder: Path, rounds: int) -> dict[str, Any]:
    """Time steps and the disk's pages, in turn.

    Returns:
        Seconds of each round by what was timed, and figures of the commit.
    """
    path = folder / "table.safetensors"
    journal = Journal(folder)
    table = FileEmbedding(FileRows(journal, read_header(path)["table"]))
    memory = Memory(table)
    optimizer = MemoryOptimizer(memory)
    start = read_header(path)["table"].start
    pages = np.random.default_rng().permutation(table.num_embeddings * 4 * WIDTH // PAGE)
    # No page is read twice: pages that are mapped are not dropped from the page cache.
    parts = iter(np.array_split(pages[: rounds * (len(WAYS) + 1) * ROWS], rounds * (len(WAYS) + 1)))
    seconds: dict[str, list[float]] = {name: [] for name in (*WAYS, "look-up", "update")}
    stayed = 0.0
    for _ in range(rounds):
        for name, read in WAYS.items():
            offsets = (start + np.sort(next(parts)) * PAGE).tolist()
            stayed = max(stayed, share_cached(path, offsets))
            began = time.perf_counter()
            read(path, offsets)
            seconds[name].append(time.perf_counter() - began)
        ids = next(parts) * (PAGE // (4 * WIDTH))
        stayed = max(stayed, share_cached(path, (start + ids * (4 * WIDTH)).tolist()))
        grads = torch.randn(ROWS, WIDTH)
        began = time.perf_counter()
        rows = table(torch.from_numpy(ids))
        middle = time.perf_counter()
        rows.backward(grads)
        optimizer.step()
        end = time.perf_counter()
        seconds["look-up"].append(middle - began)
        seconds["update"].append(end - middle)
    dirty = journal.dirty_rows
    began = time.perf_counter()
    journal.commit({"step": rounds})
    commit = {"rows": dirty, "seconds": time.perf_counter() - began}
    journal.close()
    return {"seconds": seconds, "stayed_in_page_cache": stayed, "commit": commit}


def compare(found: dict[str, Any], gib: float, held_gib: float) -> Ratio:
    """Return how many times the time of the disk's pages a step takes."""
    seconds, commit = found["seconds"], found["commit"]
    steps = [a + b for a, b in zip(seconds["look-up"], seconds["update"], strict=True)]
    best = min(WAYS, key=lambda name: statistics.median(seconds[name]))
    return Ratio(
        "training-step-in-a-file",
        f"step of {ROWS:,} cold rows of a table of {gib:.3g} GiB in a file, beside "
        f"{held_gib:g} GiB in use",
        f"the time of as many pages of the disk ({best})",
        times_as_fast(steps, seconds[best]),
        at_most=TARGET,
        note=f"{statistics.median(steps) * 1e3:.0f} ms a step; a commit writes "
        f"{commit['rows'] / commit['seconds']:,.0f} rows a second",
    )


def main() -> None:
    """Fill the memory, and measure."""
    parser = parser_of(__doc__)
    parser.add_argument("--gib", type=float, help="size of the table (16, or half of the room)")
    parser.add_argument("--held-gib", type=float, default=16, help="memory of the other process")
    parser.add_argument("--folder", type=Path, help="where the table is written for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        gib = options.gib or min(16, shutil.disk_usage(folder).free / 2**31)
        write_table(folder / "table.safetensors", int(gib * 2**30))
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(options.held_gib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert held.stdout is not None
            held.stdout.readline()
            found = bench(folder, options.rounds)
        finally:
            assert held.stdin is not None
            held.stdin.close()
            held.wait()
    if (stayed := found["stayed_in_page_cache"]) >= DROPPED:
        print(f"NOT COLD: {stayed:.1%} of the pages stayed in the page cache")
    finish([compare(found, gib, options.held_gib)], options.json)


if __name__ == "__main__":
    main()

"""Times what is done with one table of any size, in a process of its own: for `scale.py`.

    python benchmarks/scale_tables.py ram 1000000 FOLDER

Rows have 64 values of bfloat16, 128 bytes. Files of tables are sparse, so that one of 10^9 rows,
128 GB, fits on any disk: only the pages that are read have blocks on it, random bits, written
before. Look-ups ask for 8,192 rows drawn evenly, the hardest case for caches; training steps for
32,768, with the frequencies of words, as in `bench_row_optimizer.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_file_tables import share_cached
from bench_row_optimizer import LOOK_UPS, zipf_ids
from scale_memory import ROW_BYTES, WIDTH, memory_of
from torch import nn

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.nn import DiskEmbedding, FileEmbedding, MultiHeadEmbedding
from engram.nn.file_table import FileRows
from engram.storage.row_journal import Journal
from engram.storage.safetensors_headers import read_header
from engram.storage.safetensors_writer import TensorStream, header_bytes
from engram.threads import usable_cores
from engram.training import MemoryOptimizer

PAGE_BYTES = 4096
ASKED, ROUNDS, COLD_ROUNDS = 8192, 9, 5
STEPS, FIRST_STEPS = 21, 5
TOKENS = 2**16
_ROWS_A_PAGE = PAGE_BYTES // ROW_BYTES


def ram(rows: int, folder: Path) -> dict[str, Any]:
    """Look rows up in memory."""
    table = _new_table(rows)
    ids = [torch.randint(0, rows, (ASKED, 1)) for _ in range(10 * ROUNDS)]
    with torch.no_grad():
        seconds = _each_time(table, ids)
    return {"seconds": statistics.median(seconds), "look_ups": ASKED}


def disk(rows: int, folder: Path) -> dict[str, Any]:
    """Look rows up in a file that is not in the page cache, and then again in one that is."""
    path = folder / "table.safetensors"
    start = _sparse_table(path, rows)
    pages = rows // _ROWS_A_PAGE
    written = np.unique(np.random.default_rng(0).integers(0, pages, ASKED * COLD_ROUNDS * 9 // 8))
    _write_pages(path, start, written)
    places = torch.from_numpy(np.random.default_rng(1).permutation(written))
    # Every look-up has pages of its own, as far as there are enough of them.
    asked_places = torch.arange(COLD_ROUNDS * ASKED).reshape(COLD_ROUNDS, ASKED) % len(places)
    rows_in_page = torch.randint(0, _ROWS_A_PAGE, (COLD_ROUNDS, ASKED))
    ids = list(places[asked_places] * _ROWS_A_PAGE + rows_in_page)
    cold, stayed = [], 0.0
    for asked in ids:
        stayed = max(stayed, share_cached(path, (start + asked * ROW_BYTES).tolist()))
        table = DiskEmbedding(path, start, rows, WIDTH, torch.bfloat16)
        cold += _each_time(table, [asked])
        del table
    table = DiskEmbedding(path, start, rows, WIDTH, torch.bfloat16)
    _each_time(table, ids)
    warm = _each_time(table, 10 * ids)
    return {
        "seconds": statistics.median(cold),
        "warm_seconds": statistics.median(warm),
        "look_ups": ASKED,
        "stayed_in_page_cache": stayed,
    }


def step(rows: int, folder: Path) -> dict[str, Any]:
    """Train a table in memory by `MemoryOptimizer`: look-ups, backward pass and change."""
    return _trained(_new_table(rows), rows)


def file_step(rows: int, folder: Path) -> dict[str, Any]:
    """Train a table in a file; look-ups, backward pass and change, without the commits."""
    path = folder / "table.safetensors"
    _sparse_table(path, rows)
    found = FileEmbedding(FileRows(Journal(folder), read_header(path)["table"]))
    return _trained(MultiHeadEmbedding([rows], WIDTH, table=found), rows)


def kernel(rows: int, folder: Path) -> dict[str, Any]:
    """Hash 64k tokens into one array again and again: 2-grams and 3-grams, 8 heads, 1 layer."""
    memory = memory_of(rows, "gpt2")
    vocabulary = memory.engram_vocab_size
    token_map = np.arange(vocabulary, dtype=np.int32)
    addresses = Addresses.from_config(memory, token_map, vocabulary - 1)
    hasher = Hasher(addresses, threads=usable_cores(), form="numba")
    tokens = np.random.default_rng(0).integers(0, vocabulary, (1, TOKENS))
    out, _ = hasher.hash(tokens)
    seconds = []
    for _ in range(10 * ROUNDS):
        started = time.perf_counter()
        hasher.hash(tokens, out=out)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "tokens": TOKENS}


WAYS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "ram": ram,
    "disk": disk,
    "step": step,
    "file-step": file_step,
    "kernel": kernel,
}


def _new_table(rows: int) -> MultiHeadEmbedding:
    table = MultiHeadEmbedding([rows], WIDTH, device="meta", dtype=torch.bfloat16)
    table = table.to_empty(device="cpu")
    for rows_of_table in table.parameters():
        nn.init.ones_(rows_of_table)  # memory that nothing was written to is all one page
    nn.init.zeros_(table.offsets)
    return table


def _each_time(call: Callable[[Any], Any], inputs: list[torch.Tensor]) -> list[float]:
    seconds = []
    for item in inputs:
        started = time.perf_counter()
        call(item)
        seconds.append(time.perf_counter() - started)
    return seconds


def _trained(table: MultiHeadEmbedding, rows: int) -> dict[str, Any]:
    optimizer = MemoryOptimizer(table)
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(FIRST_STEPS + STEPS):
        ids = zipf_ids(rows, generator)[:, None]
        factors = torch.randn(LOOK_UPS, WIDTH, generator=generator)
        started = time.perf_counter()
        (table(ids) * factors).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[FIRST_STEPS:]), "look_ups": LOOK_UPS}


def _sparse_table(path: Path, rows: int) -> int:
    """Make a file with a table of zeros that takes no blocks; returns where the table starts."""
    header = header_bytes([TensorStream("table", "BF16", (rows, WIDTH), ())], aligned_to=PAGE_BYTES)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + rows * ROW_BYTES)
    return len(header)


def _write_pages(path: Path, start: int, pages: np.ndarray[Any, Any]) -> None:
    """Write random bits to some pages of a table."""
    block = np.random.default_rng(2).integers(0, 256, PAGE_BYTES, np.uint8).tobytes()
    with path.open("r+b") as file:
        for page in pages.tolist():
            os.pwrite(file.fileno(), block, start + page * PAGE_BYTES)
        os.fsync(file.fileno())


def main() -> None:
    """Measure one way at one size, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("rows", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    print(json.dumps(WAYS[given.way](given.rows, given.folder)))


if __name__ == "__main__":
    main()

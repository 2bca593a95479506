"""Times what feeds a training run: `engram hash -o`, `HashedDataset` and the start of its workers.

`hash -o` is compared with writing the same bytes to the same disk and syncing them. Beside it
stands what no writer of these files can be faster than on this processor: the sha256 of all bytes,
on as many threads, and for parquet pyarrow's own work, to nowhere. A small corpus tells the fixed
cost: the start, and loading compiled code. The dataset is read in this process, windows of 2,048
tokens; a worker's start is the time to the first window of a DataLoader with one worker, less that
of a dataset of one number, so that what torch itself takes is left out.

    python benchmarks/bench_dataset.py --megabytes 50
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import Ratio, finish, parser_of

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
WINDOW = 2048
WORKERS = 2
FORMATS = ("npy", "parquet")
_BLOCK = bytes(2**24)


@dataclass(frozen=True)
class Written:
    """What `hash -o` wrote, and how long it and its limits took, in seconds.

    Attributes:
        size_bytes: Bytes of the folder.
        seconds: The whole process.
        plain: A synced write of as many bytes.
        digests: Their sha256, on WORKERS threads.
        encoding: pyarrow's writing of the same tables to nowhere, on as many; 0 for .npy files.
    """

    size_bytes: int
    seconds: float
    plain: float
    digests: float
    encoding: float


def hash_ids(corpus: Path, config: str, tokenizer: Path, format: str) -> Written:
    """Hash a corpus, and time what is to be compared with it."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as name:
        folder = Path(name, "ids")
        words = [sys.executable, "-m", "engram_cli", "hash", str(corpus), "-c", config]
        words += ["-t", str(tokenizer), "-o", str(folder), "--format", format]
        begin = time.perf_counter()
        done = subprocess.run(
            [*words, "-j", str(WORKERS), "--json"], check=True, capture_output=True
        )
        seconds = time.perf_counter() - begin
        size_bytes = json.loads(done.stdout)["output_bytes"]
        encoding = 0.0
        if format == "parquet":
            file = folder / "shard-00000.parquet"
            encoding = encoding_seconds(file) * size_bytes / file.stat().st_size / WORKERS
        shutil.rmtree(folder)
        plain = plain_seconds(Path(name), size_bytes)
        return Written(size_bytes, seconds, plain, digests(size_bytes), encoding)


def plain_seconds(folder: Path, size_bytes: int) -> float:
    """Time a synced write."""
    begin = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        while size_bytes:
            size_bytes -= file.write(_BLOCK[:size_bytes])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def digests(size_bytes: int) -> float:
    """Return the seconds that the sha256 of so many bytes takes on WORKERS threads."""
    blocks = 16
    with ThreadPoolExecutor(WORKERS) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda _: hashlib.sha256(_BLOCK).digest(), range(blocks)))
        seconds = time.perf_counter() - begin
    return seconds * size_bytes / (blocks * len(_BLOCK))


class _Nowhere(io.RawIOBase):
    """A file that keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def encoding_seconds(file: Path) -> float:
    """Time pyarrow's writing of a file's row groups as they are, on one thread."""
    import pyarrow.parquet as pq

    seconds, groups = 0.0, pq.ParquetFile(file)
    with pq.ParquetWriter(_Nowhere(), groups.schema_arrow, use_dictionary=False) as writer:
        for index in range(groups.num_row_groups):
            table = groups.read_row_group(index)
            begin = time.perf_counter()
            writer.write_table(table)
            seconds += time.perf_counter() - begin
    return seconds


def written_ratios(format: str, found: Sequence[Written], fixed: Sequence[Written]) -> list[Ratio]:
    """Compare `hash -o` and its limits with synced writes, from all rounds."""
    one, start = found[-1], min(it.seconds for it in fixed)
    command = f"engram hash -o --format {format}"
    ratios = [
        Ratio(
            f"hash-{format}",
            command,
            "a synced write of the same bytes",
            [it.plain / it.seconds for it in found],
            at_least=0.8,
            note=f"{one.size_bytes / 1e9:.2f} GB; {min(it.seconds for it in found):.1f} s at best, "
            f"of which {start:.1f} s for a small corpus, too; the write "
            f"{min(it.plain for it in found):.1f} s",
        )
    ]
    limits = {"digests": "the sha256 of its files"}
    if one.encoding:
        limits["encoding"] = "pyarrow's own work"
    for name, words in limits.items():
        seconds = [getattr(it, name) for it in found]
        ratios.append(
            Ratio(
                f"hash-{format}-{name}",
                f"limit of {command}: {words}, {WORKERS} threads",
                "a synced write of the same bytes",
                [it.plain / taken for it, taken in zip(found, seconds, strict=True)],
                note=f"{min(seconds):.1f} s",
            )
        )
    return ratios


def tokens_per_second(dataset: Any, tokens: int) -> float:
    """Return the rate at which windows come, after the first."""
    windows = iter(dataset)
    next(windows)
    count = max(1, min(tokens // WINDOW, dataset.n_windows - 1))
    begin = time.perf_counter()
    for _ in range(count):
        next(windows)
    seconds = time.perf_counter() - begin
    return float(count * WINDOW / seconds)


def first_seconds(dataset: Any, start: str) -> float:
    """Return the seconds until one worker of a DataLoader gives something."""
    from torch.utils.data import DataLoader

    begin = time.perf_counter()
    # Named, so that its end is not timed: a worker that is loading compiled code ends after that.
    given = iter(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start))
    next(given)
    return time.perf_counter() - begin


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, time all, and print the ratios."""
    from engram import HashedDataset, build_corpus

    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, default=ASSETS / "english.txt")
    parser.add_argument("--tokenizer", type=Path, default=ASSETS / "tokenizers" / "gpt2")
    parser.add_argument("--config", default="gpt2", help="the memory: a file or a template")
    parser.add_argument("--megabytes", type=int, default=50, help="from the start of the text")
    args = parser.parse_args(words)
    megabytes, rounds = (5, 1) if args.quick else (args.megabytes, args.rounds)
    found: dict[str, list[float]] = {}
    written: dict[str, list[Written]] = {format: [] for format in FORMATS}
    fixed: dict[str, list[Written]] = {format: [] for format in FORMATS}
    with tempfile.TemporaryDirectory(dir=os.environ.get("ENGRAM_BENCH_DIR")) as name:
        corpora = Path(name) / "small", Path(name) / "corpus"
        for corpus, size_bytes in zip(corpora, (10**5, megabytes * 10**6), strict=True):
            text = Path(name) / "text.txt"
            with args.text.open("rb") as file:
                text.write_bytes(file.read(size_bytes).decode(errors="ignore").encode())
            build_corpus(text, args.tokenizer, corpus)

        def dataset() -> Any:
            return HashedDataset(
                corpora[1], args.config, tokenizer=str(args.tokenizer), window_tokens=WINDOW
            )

        for start in ("fork", "spawn"):  # before the compiled hash is loaded here
            for _ in range(rounds):
                least = first_seconds([0], start)
                found.setdefault(start, []).append(first_seconds(dataset(), start) - least)
        for _ in range(rounds):
            for format in FORMATS:
                for corpus, results in zip(corpora, (fixed, written), strict=True):
                    results[format].append(hash_ids(corpus, args.config, args.tokenizer, format))
            rate = tokens_per_second(dataset(), 10**7) / 1e6
            found.setdefault("rate", []).append(rate)
    ratios = [
        ratio
        for format in FORMATS
        for ratio in written_ratios(format, written[format], fixed[format])
    ]
    ratios.append(
        Ratio(
            "dataset-rate",
            "HashedDataset with its ids, in one process",
            "a promise",
            found["rate"],
            at_least=2,
            unit="M/s",
        )
    )
    ratios += [
        Ratio(
            f"dataset-{start}",
            f"first window of a worker ({start})",
            "a dataset of one number",
            found[start],
            at_most=0.3,
            unit="s",
        )
        for start in ("fork", "spawn")
    ]
    finish(ratios, args.json)


if __name__ == "__main__":
    main()

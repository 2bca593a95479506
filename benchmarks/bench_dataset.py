"""Times what feeds a training run: `engram hash -o`, `HashedDataset` and the start of its workers.

`hash -o` is compared with writing the same bytes to the same disk and syncing them; the dataset is
read in this process, windows of 2,048 tokens; a worker's start is the time to the first window of
a DataLoader with one worker, less that of a dataset of one number, so that what torch itself takes
is left out.

    python benchmarks/bench_dataset.py --megabytes 20
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured import Ratio, finish, parser_of

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
WINDOW = 2048
_BLOCK = bytes(2**24)


def hash_against_disk(corpus: Path, config: str, tokenizer: Path, format: str) -> float:
    """Return the seconds of a synced write, over those of `hash -o` for the same bytes."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as name:
        words = [sys.executable, "-m", "engram_cli", "hash", str(corpus), "-c", config]
        words += ["-t", str(tokenizer), "-o", f"{name}/ids", "--format", format, "-j", "2"]
        begin = time.perf_counter()
        done = subprocess.run([*words, "--json"], check=True, capture_output=True)
        seconds = time.perf_counter() - begin
        left = json.loads(done.stdout)["output_bytes"]
        begin = time.perf_counter()
        with (Path(name) / "plain").open("wb") as file:
            while left:
                left -= file.write(_BLOCK[:left])
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - begin) / seconds


def tokens_per_second(dataset: Any, tokens: int) -> float:
    """Return the rate at which windows come, after the first."""
    windows = iter(dataset)
    next(windows)
    count = max(1, min(tokens // WINDOW, dataset.n_windows - 1))
    begin = time.perf_counter()
    for _ in range(count):
        next(windows)
    return count * WINDOW / (time.perf_counter() - begin)


def first_seconds(dataset: Any, start: str) -> float:
    """Return the seconds until one worker of a DataLoader gives something."""
    from torch.utils.data import DataLoader

    begin = time.perf_counter()
    next(iter(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)))
    return time.perf_counter() - begin


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, time all, and print the ratios."""
    from engram import HashedDataset, build_corpus

    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, default=ASSETS / "english.txt")
    parser.add_argument("--tokenizer", type=Path, default=ASSETS / "tokenizers" / "gpt2")
    parser.add_argument("--config", default="gpt2", help="the memory: a file or a template")
    parser.add_argument("--megabytes", type=int, default=20, help="from the start of the text")
    args = parser.parse_args(words)
    megabytes, rounds = (5, 1) if args.quick else (args.megabytes, args.rounds)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("ENGRAM_BENCH_DIR")) as name:
        text, corpus = Path(name) / "text.txt", Path(name) / "corpus"
        with args.text.open("rb") as file:
            data = file.read(megabytes * 10**6)
        text.write_bytes(data.decode(errors="ignore").encode())
        build_corpus(text, args.tokenizer, corpus)

        def dataset() -> Any:
            return HashedDataset(
                corpus, args.config, tokenizer=str(args.tokenizer), window_tokens=WINDOW
            )

        for start in ("fork", "spawn"):  # before the compiled hash is loaded here
            for _ in range(rounds):
                beyond = first_seconds(dataset(), start) - first_seconds([0], start)
                found.setdefault(start, []).append(beyond)
        for _ in range(rounds):
            for format in ("npy", "parquet"):
                ratio = hash_against_disk(corpus, args.config, args.tokenizer, format)
                found.setdefault(format, []).append(ratio)
            rate = tokens_per_second(dataset(), 10**7) / 1e6
            found.setdefault("rate", []).append(rate)
    ratios = [
        Ratio(
            f"hash-{format}",
            f"engram hash -o --format {format}",
            "a synced write of the same bytes",
            found[format],
            at_least=0.8,
        )
        for format in ("npy", "parquet")
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

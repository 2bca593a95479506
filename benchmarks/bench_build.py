"""Times `engram corpus build` beside `datasets.map` and datatrove's tokeniser, whole processes.

All read the same text with two workers: paragraphs of plain text, for datatrove the same documents
as JSON lines in two files. `datasets` encodes with `tokenizers`, without offsets, which is the
fastest that it does. ``--lay-peers`` installs the peers under .range/; one that is missing is
left out, with a sentence. Ours runs with gigatoken and, as if it were not installed, without; what
it cannot be faster than without is `tokenizers` itself, which encodes the same documents in as many
processes and keeps nothing.

    python benchmarks/bench_build.py --megabytes 20
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from measured import Ratio, finish, parser_of, times_as_fast
from version_sets import OVERLAYS, ROOT, lay

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
LAID = "build-peers"
PINS = ("datasets==5.2.0", "datatrove==0.10.1", "orjson")
WORKERS = 2
PROMISES = {"gigatoken": 5.0, "tokenizers": 1.2}


def run_datasets(text: str, tokenizer: str, folder: str) -> None:
    """Tokenise with `datasets.map`; what it writes is its cache."""
    import datasets
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encodings = encoder.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"input_ids": [encoding.ids for encoding in encodings]}

    data = datasets.load_dataset(
        "text", data_files=text, split="train", sample_by="paragraph", cache_dir=folder
    )
    data.map(encode, batched=True, num_proc=WORKERS, remove_columns=["text"])


def run_datatrove(documents: str, tokenizer: str, folder: str) -> None:
    """Tokenise with datatrove's `DocumentTokenizer` on its local executor."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer

    step = DocumentTokenizer(
        f"{folder}/tokens", tokenizer_name_or_path=tokenizer, shuffle_documents=False
    )
    LocalPipelineExecutor(
        pipeline=[JsonlReader(documents), step],
        tasks=WORKERS,
        workers=WORKERS,
        logging_dir=f"{folder}/logs",
    ).run()


@cache
def encoder_of(tokenizer: str) -> Any:
    """Return the tokenizer of a process."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(tokenizer)


def encode(tokenizer: str, lines: list[str]) -> None:
    """Encode documents, and keep nothing."""
    texts = [json.loads(line)["text"] for line in lines]
    encoder_of(tokenizer).encode_batch_fast(texts, add_special_tokens=False)


def run_bare(documents: str, tokenizer: str, folder: str) -> None:
    """Encode with `tokenizers` alone; `folder` stays empty."""
    lines = [it for file in sorted(Path(documents).iterdir()) for it in file.open(encoding="utf-8")]
    parts = [lines[begin : begin + 1000] for begin in range(0, len(lines), 1000)]
    os.environ["RAYON_NUM_THREADS"] = "1"
    with multiprocessing.Pool(WORKERS) as pool:
        for _ in pool.imap_unordered(partial(encode, tokenizer), parts):
            pass


Run = Callable[[str, str, str], None]
PEERS: dict[str, Run] = {"datasets": run_datasets, "datatrove": run_datatrove}
LIMIT = "tokenizers alone"
RUNS: dict[str, Run] = {**PEERS, LIMIT: run_bare}


def environment(*before: Path) -> dict[str, str]:
    """Return the variables of a process, with folders that come before the environment's."""
    folders = [*before, ROOT, OVERLAYS / LAID]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}


def seconds_of(words: list[str], variables: dict[str, str]) -> float:
    """Time a process."""
    begin = time.perf_counter()
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def write_inputs(folder: Path, source: Path, size_bytes: int) -> None:
    """Write the text, and its documents as JSON lines in a file for each worker."""
    from engram.corpus.text.readers import TextReader

    with source.open("rb") as file:
        data = file.read(size_bytes)
    (folder / "text.txt").write_bytes(data.decode(errors="ignore").encode())
    texts = [text for block in TextReader(folder / "text.txt") for text in block.texts]
    (folder / "json").mkdir()
    for part in range(WORKERS):
        mine = texts[len(texts) * part // WORKERS : len(texts) * (part + 1) // WORKERS]
        lines = "".join(f"{json.dumps({'text': text}, ensure_ascii=False)}\n" for text in mine)
        (folder / "json" / f"{part}.jsonl").write_text(lines, encoding="utf-8")


def runs_of(folder: Path, tokenizer: Path) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield the name, command and variables of everything that is timed."""
    without = folder / "without"
    without.mkdir()
    (without / "gigatoken.py").write_text('raise ImportError("switched off")\n')
    ours = [sys.executable, "-m", "engram_cli", "corpus", "build", str(folder / "text.txt")]
    ours += ["-t", str(tokenizer.parent), "-j", str(WORKERS), "--overwrite", "-q"]
    ours += ["-o", str(folder / "corpus")]
    yield "gigatoken", ours, environment()
    yield "tokenizers", ours, environment(without)
    for name in RUNS:
        if (
            name in PEERS
            and subprocess.run(
                [sys.executable, "-c", f"import {name}"], env=environment(), capture_output=True
            ).returncode
        ):
            print(f"{name} is not installed, and left out: --lay-peers installs it.")
            continue
        text = folder / ("text.txt" if name == "datasets" else "json")
        yield (
            name,
            [sys.executable, __file__, "--peer", name, str(text), str(tokenizer)],
            environment(),
        )


def main() -> None:
    """Parse the command line, time all in turn, and print the ratios."""
    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, default=ASSETS / "english.txt")
    parser.add_argument("--tokenizer", type=Path, default=ASSETS / "tokenizers" / "gpt2")
    parser.add_argument("--megabytes", type=int, default=20, help="from the start of the text")
    parser.add_argument("--lay-peers", action="store_true", help="install the peers first")
    parser.add_argument("--peer", nargs=3, help="run one of them, on a text with a tokenizer")
    args = parser.parse_args()
    if args.peer:
        peer, source, tokenizer = args.peer
        with tempfile.TemporaryDirectory() as name:
            RUNS[peer](source, tokenizer, name)
        return
    if args.lay_peers:
        lay(LAID, PINS)
    megabytes, rounds = (10, 1) if args.quick else (args.megabytes, args.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, args.text, megabytes * 10**6)
        runs = list(runs_of(folder, args.tokenizer / "tokenizer.json"))
        seconds: dict[str, list[float]] = {run: [] for run, _, _ in runs}
        for _ in range(rounds):
            for run, words, variables in runs:
                seconds[run].append(seconds_of(words, variables))
    ratios = [
        Ratio(
            key=f"build-{engine}-{peer}",
            what=f"engram corpus build of {megabytes} MB with {engine}",
            against=peer,
            rounds=times_as_fast(seconds[peer], seconds[engine]),
            at_least=promise,
            note=f"seconds: {min(seconds[engine]):.2f}, {peer} {min(seconds[peer]):.2f}",
        )
        for engine, promise in PROMISES.items()
        for peer in PEERS
        if peer in seconds
    ]
    ratios += [
        Ratio(
            key=f"build-limit-{peer}",
            what=f"limit without gigatoken: {LIMIT}, {WORKERS} processes",
            against=peer,
            rounds=times_as_fast(seconds[peer], seconds[LIMIT]),
            note=f"{min(seconds[LIMIT]):.2f} s",
        )
        for peer in PEERS
        if peer in seconds
    ]
    finish(ratios, args.json)


if __name__ == "__main__":
    main()

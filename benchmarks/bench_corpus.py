"""Times `engram hash --stats`, the whole process, against a plain pipeline; measures its memory.

The plain pipeline is what one writes without this toolkit: read the text, `encode_batch` of its
paragraphs, and the reference demo's numpy hash of each batch; nothing is counted or written. From a
stored corpus there is nothing to tokenise, and the plain pipeline is the rest: the numpy hash of
each batch, and `np.unique` of each head's rows and of the n-grams at the end. All run as processes
of their own, in turn; the seconds of the stored plain pipeline are those of hashing and counting
alone, without its start and without reading tokens.

    python benchmarks/bench_corpus.py --megabytes 10 --rounds 1
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import Ratio, finish, parser_of, times_as_fast

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
TEXT_RATIO, STORED_RATIO = 16, 20
TARGET_BYTES = 10**9
LAYERS = (1, 6)
BATCH_DOCUMENTS = 4096
BATCH_TOKENS = 2**17
MOST_PARTS = 16
QUICK_MEGABYTES = 10


def plain_text(text: Path, tokenizer: str) -> None:
    """Tokenise with `encode_batch` and hash with numpy, as the reference demo does."""
    import numpy as np
    from tokenizers import Tokenizer

    from engram.addressing.reference import hash_ids
    from engram.corpus.hash.hash_text import find_memory
    from engram.corpus.text.readers import TextReader

    _, _, addresses = find_memory(None, tokenizer, LAYERS)
    encoder = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    documents = [document for block in TextReader(text) for document in block.texts]
    tokens = 0
    for first in range(0, len(documents), BATCH_DOCUMENTS):
        batch = documents[first : first + BATCH_DOCUMENTS]
        ids = [encoding.ids for encoding in encoder.encode_batch(batch, add_special_tokens=False)]
        flat = np.concatenate([np.array(part, dtype=np.int64) for part in ids])
        starts = np.zeros((1, len(flat)), dtype=bool)
        ends = np.cumsum([len(part) for part in ids])
        starts[0, ends[ends < len(flat)]] = True
        hash_ids(addresses, flat[None], starts=starts)
        tokens += len(flat)
    print(json.dumps({"tokens": tokens}))


def plain_stored(corpus: Path, tokenizer: str) -> None:
    """Hash stored tokens with numpy, and count rows and n-grams with `np.unique`."""
    import numpy as np

    from engram.addressing.reference import hash_ids, look_back
    from engram.corpus.hash.hash_text import find_memory
    from engram.corpus.tokens.token_shards import StoredTokens

    _, _, addresses = find_memory(None, tokenizer, LAYERS)
    reader = StoredTokens(corpus)
    tokens, starts = reader.read(0, reader.n_tokens)
    started = time.perf_counter()
    rows: list[list[Any]] = [[] for _ in range(len(LAYERS) * addresses.n_columns)]
    ngrams: list[list[Any]] = [[] for _ in addresses.orders]
    bits = addresses.vocab_size.bit_length()
    for first in range(0, len(tokens), BATCH_TOKENS):
        part = tokens[None, first : first + BATCH_TOKENS].astype(np.int64)
        begins = starts[None, first : first + BATCH_TOKENS]
        ids = hash_ids(addresses, part, starts=begins)[0].reshape(part.shape[1], -1)
        for kept, column in zip(rows, ids.T, strict=True):
            kept.append(np.unique(column))
            if len(kept) == MOST_PARTS:  # or memory would grow with the text
                kept[:] = [np.unique(np.concatenate(kept))]
        slots = look_back(addresses, part, starts=begins)[0][0].astype(np.int64)
        for kept, order in zip(ngrams, addresses.orders, strict=True):
            packed = slots[:, 0]
            for back in range(1, order):
                packed = packed << bits | slots[:, back]
            kept.append(packed)
    hits = [len(np.unique(np.concatenate(kept))) for kept in rows]
    distinct = [len(np.unique(np.concatenate(kept))) for kept in ngrams]
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "hits": hits, "distinct": distinct}))


def timed(words: list[str]) -> tuple[float, int, dict[str, Any]]:
    """Run a process; return its seconds, its peak memory in bytes, and the JSON it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(words)} ended with status {status}")
    return seconds, _peak_bytes(usage), json.loads(printed)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(text: Path, tokenizer: str, rounds: int, folder: Path) -> list[Ratio]:
    """Run all four in turn, check that they agree, and return their ratios."""
    engram = [sys.executable, "-m", "engram_cli"]
    chosen = ["-t", tokenizer, "--layers", ",".join(map(str, LAYERS)), "--stats", "--json"]
    corpus = folder / "corpus"
    # Documents as they are stored by default end with the end-of-text token.
    build = [*engram, "corpus", "build", str(text), "-t", tokenizer, "-o", str(corpus), "--json"]
    timed(build)
    runs: dict[str, list[tuple[float, int, dict[str, Any]]]] = {}
    for _ in range(rounds):
        for name, words in (
            ("text", [*engram, "hash", str(text), *chosen, "--no-eos"]),
            ("plain text", [sys.executable, __file__, "--plain", str(text)]),
            ("stored", [*engram, "hash", str(corpus), *chosen]),
            ("plain stored", [sys.executable, __file__, "--plain", str(corpus)]),
        ):
            tail = ["--tokenizer", tokenizer] if "--plain" in words else []
            runs.setdefault(name, []).append(timed([*words, *tail]))
    seconds = {name: [run[0] for run in found] for name, found in runs.items()}
    seconds["plain stored"] = [run[2]["seconds"] for run in runs["plain stored"]]
    _check_equal(*(runs[name][0][2] for name in ("text", "plain text", "stored", "plain stored")))
    peak = [
        max(run[1] for run in pair) / 1e9 for pair in zip(runs["text"], runs["stored"], strict=True)
    ]
    size = f"{text.stat().st_size / 1e6:.0f} MB of text"
    notes = {name: f"{min(found):.2f} s" for name, found in seconds.items()}
    return [
        Ratio(
            key="hash-stats-text",
            what=f"engram hash --stats, whole process, {size}",
            against="plain pipeline: encode_batch and the demo's numpy hash, nothing counted",
            rounds=times_as_fast(seconds["plain text"], seconds["text"]),
            at_least=TEXT_RATIO,
            note=f"best: {notes['text']} against {notes['plain text']}",
        ),
        Ratio(
            key="hash-stats-stored",
            what=f"engram hash --stats of a stored corpus, whole process, {size}",
            against="numpy hash and np.unique of rows and n-grams, without start and reading",
            rounds=times_as_fast(seconds["plain stored"], seconds["stored"]),
            at_least=STORED_RATIO,
            note=f"best: {notes['stored']} against {notes['plain stored']}",
        ),
        Ratio(
            key="hash-stats-memory",
            what=f"peak memory of engram hash --stats, {size}",
            against="1 GB",
            rounds=peak,
            at_most=TARGET_BYTES / 1e9,
            unit="GB",
        ),
    ]


def _check_equal(
    ours: dict[str, Any], plain: dict[str, Any], stored: dict[str, Any], counted: dict[str, Any]
) -> None:
    """Check that both sides of a ratio did the same work."""
    heads = [head for layer in stored["layers"] for head in layer["heads"]]
    hits = [head["rows_hit"] for head in heads]
    distinct = [curve["points"][-1]["distinct_ngrams"] for curve in stored["growth"]]
    # A batch of the plain pipeline begins inside a document, whose n-grams it cuts.
    is_near = all(
        abs(one - other) <= 1e-3 * other
        for one, other in zip(
            [*hits, *distinct], [*counted["hits"], *counted["distinct"]], strict=True
        )
    )
    if ours["tokens"] != plain["tokens"] or not is_near:
        raise SystemExit("the plain pipeline counted other tokens, rows or n-grams")


def main() -> None:
    """Parse the command line and print the results."""
    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, default=ASSETS / "english.txt")
    parser.add_argument("--tokenizer", default=str(ASSETS / "tokenizers" / "deepseek-v3"))
    parser.add_argument("--megabytes", type=int, default=0, help="from the start; 0 for all")
    parser.add_argument("--plain", type=Path, metavar="TEXT", help="run a plain pipeline alone")
    args = parser.parse_args()
    if args.plain is not None:
        plain = plain_stored if args.plain.is_dir() else plain_text
        plain(args.plain, args.tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        with args.text.open("rb") as file:
            megabytes = args.megabytes or (QUICK_MEGABYTES if args.quick else 0)
            data = file.read(megabytes * 10**6 or -1)
        # What is not UTF-8, and a character that is cut in two, are left out for both sides.
        text.write_bytes(data.decode(errors="ignore").encode())
        rounds = 1 if args.quick else args.rounds
        finish(compare(text, args.tokenizer, rounds, Path(folder)), args.json)


if __name__ == "__main__":
    main()

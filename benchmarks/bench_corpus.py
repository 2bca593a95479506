"""Times `engram hash --stats`, the whole process, against a plain pipeline; measures its memory.

The plain pipeline is what one writes without this toolkit: read the text, `encode_batch` of its
paragraphs and the reference demo's numpy hash of each batch; nothing is counted or written.
Both run as processes of their own, in turn, `--rounds` times each; the ratio is that of their best
times, so that a busy moment does not decide it.

    python benchmarks/bench_corpus.py --megabytes 10
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
TARGET_RATIO = 10
TARGET_BYTES = 2 * 10**9
LAYERS = (1, 6)
BATCH_DOCUMENTS = 4096


def plain_pipeline(text: Path, tokenizer: str) -> None:
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


def timed(words: list[str]) -> tuple[float, int, dict[str, object]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=ASSETS / "english.txt")
    parser.add_argument("--tokenizer", default=str(ASSETS / "tokenizers" / "deepseek-v3"))
    parser.add_argument("--megabytes", type=int, default=10, help="from the start; 0 for all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="run the plain pipeline alone")
    args = parser.parse_args()
    if args.plain:
        plain_pipeline(args.text, args.tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        with args.text.open("rb") as file:
            data = file.read(args.megabytes * 10**6 or -1)
        # What is not UTF-8, and a character that is cut in two, are left out for both sides.
        text.write_bytes(data.decode(errors="ignore").encode())
        ours = [sys.executable, "-m", "engram_cli", "hash", str(text), "-t", args.tokenizer]
        ours += ["--layers", ",".join(map(str, LAYERS)), "--stats", "--json"]
        plain = [sys.executable, __file__, "--plain", "--text", str(text)]
        plain += ["--tokenizer", args.tokenizer]
        runs = [(timed(ours), timed(plain)) for _ in range(args.rounds)]
    seconds, peak, result = min((mine for mine, _ in runs), key=lambda run: run[0])
    plain_seconds, _, plain_result = min((other for _, other in runs), key=lambda run: run[0])
    if result["tokens"] != plain_result["tokens"]:
        raise SystemExit(f"tokens differ: {result['tokens']} and {plain_result['tokens']}")
    megabytes = len(data) / 10**6
    print(f"text                {megabytes:.1f} MB, {result['tokens']:,} tokens")
    print(f"plain pipeline      {plain_seconds:.1f} s, {megabytes / plain_seconds:.1f} MB/s")
    print(f"engram hash --stats {seconds:.1f} s, {megabytes / seconds:.1f} MB/s")
    print(f"ratio               {plain_seconds / seconds:.2f} (target {TARGET_RATIO})")
    print(f"peak memory         {peak / 10**6:,.0f} MB (target below {TARGET_BYTES / 10**6:,.0f})")


if __name__ == "__main__":
    main()

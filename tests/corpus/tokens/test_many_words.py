"""Memory stays bounded when every word of a text is new, and its ids are those of `tokenizers`.

ENGRAM_TEST_WORDS says how many distinct words: 100000000 take 700 MB of disk and some minutes.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from support import cli
from support.peak_memory import run_measured

pytest.importorskip("gigatoken")

WORDS = int(os.environ.get("ENGRAM_TEST_WORDS", "12000000"))
MOST_BYTES = 2 * 10**9
LETTERS = 6
DOCUMENT_WORDS = 500


def write_words(path: Path, words: int) -> None:
    """Write distinct words of six letters, in an order that looks random."""
    assert words < 26**LETTERS
    with path.open("wb") as file:
        for start in range(0, words, 10**6):
            # A factor without 2 and 13 gives each number another place.
            numbers = np.arange(start, min(start + 10**6, words), dtype=np.uint64)
            numbers = numbers * np.uint64(190_000_009) % np.uint64(26**LETTERS)
            text = np.full((len(numbers), LETTERS + 1), ord(" "), np.uint8)
            for place in range(LETTERS):
                numbers, letters = np.divmod(numbers, np.uint64(26))
                text[:, place] = letters + ord("a")
            text[DOCUMENT_WORDS - 1 :: DOCUMENT_WORDS, LETTERS] = ord("\n")
            file.write(text.tobytes())


@pytest.mark.real
@pytest.mark.parametrize("command", ["corpus build", "hash"])
def test_distinct_words(real_assets, tmp_path, command):
    text, folder = tmp_path / "words.txt", tmp_path / "corpus"
    write_words(text, WORDS)
    tokenizer = real_assets / "tokenizers" / "gpt2"
    words = [*command.split(), text, "--split", "line", "-t", tokenizer, "--json"]
    words += ["-o", folder, "-j", "1"] if command == "corpus build" else ["--stats"]
    done, peak_bytes = run_measured(cli.command(*words), tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Tokenised with gigatoken" in done.stderr
    print(f"\n{command}: {WORDS:,} words, peak {peak_bytes:,} bytes")
    assert peak_bytes < MOST_BYTES
    if command == "hash":
        payload = json.loads(done.stdout)
        assert payload["documents"] == -(-WORDS // DOCUMENT_WORDS)
        return
    check_sample(text, folder, Tokenizer.from_file(str(tokenizer / "tokenizer.json")))


def check_sample(text: Path, folder: Path, tokenizer: Tokenizer) -> None:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    first = 0
    for shard in shards:
        tokens = np.load(folder / shard["tokens_file"], mmap_mode="r")
        bounds = np.load(folder / shard["documents_file"])
        for index in random.Random(first).choices(range(len(bounds) - 1), k=200):
            with text.open("rb") as file:
                file.seek((first + index) * DOCUMENT_WORDS * (LETTERS + 1))
                document = file.readline().decode()
            ids = tokenizer.encode(document, add_special_tokens=False).ids
            found = tokens[bounds[index] : bounds[index + 1]].tolist()
            assert found == [*ids, 50256]
        first += len(bounds) - 1
    assert first == -(-WORDS // DOCUMENT_WORDS)

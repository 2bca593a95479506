"""Folders of the tests and of the repository, wherever the file lies that asks."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
GOLDEN = TESTS / "golden"
TOKENIZERS = GOLDEN / "tokenizers"
# A byte-level BPE tokenizer with 544 ids.
BPE = TOKENIZERS / "local_bpe"
# A word tokenizer with 23 ids.
WORD = TOKENIZERS / "local_word"

"""Corpora that the tools themselves wrote, in recorded/: its README says how."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.foreign.find_tokens import find_tokens
from support.paths import BPE

RECORDED = Path(__file__).parent / "recorded"
DOCUMENTS = [[0, 5, 6, 1], [0, 543, 1], [7], [0, 300, 301, 302, 1]]


@pytest.mark.parametrize("kind", ["megatron", "datatrove", "datasets"])
def test_recorded_files_hold_the_documents_that_were_written(kind):
    found = find_tokens(RECORDED / kind)
    assert found.format == kind
    assert found.tokenizer == ("local/bpe" if kind == "datatrove" else None)
    tokens = found.open(load_tokenizer(BPE))
    bounds = tokens.boundaries().tolist()
    assert [tokens.read(*span)[0].tolist() for span in pairwise(bounds)] == DOCUMENTS

"""Names that people give: an empty one is refused, and never means the current folder."""

from __future__ import annotations

import pytest

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.text.sources import find_sources
from engram.errors import UsageError


@pytest.mark.parametrize(
    ("read", "subject"),
    [
        (engram.size, "model"),
        (engram.load_config, "config"),
        (engram.verify, "checkpoint"),
        (lambda name: engram.look_up(name, "text"), "checkpoint"),
        (lambda name: engram.convert(name, "out", to="published"), "checkpoint"),
        (lambda name: engram.detach(name, "out"), "folder"),
        (lambda name: engram.push_to_hub(name, "organisation/name"), "folder"),
        (lambda name: engram.attach(name, "gpt2", "out"), "model"),
        (load_tokenizer, "tokenizer"),
        (find_sources, "text"),
    ],
)
def test_an_empty_name_is_refused(read, subject):
    with pytest.raises(UsageError, match=f"name of the {subject} is empty"):
        read("")

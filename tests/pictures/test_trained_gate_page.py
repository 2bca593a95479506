"""The page of gates of a memory that is trained here, as Chromium shows it."""

from __future__ import annotations

import pytest

from engram.evaluation import GateOptions, read_gates
from engram.pictures.gate_page import gates_html
from engram.pictures.page import marked
from engram.training import train
from support import tiny
from support.chromium import needs_chromium
from support.trained import options, written_text

WORDS = "w3 w9 w27 w2 w6\nw19"


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """Gates of a memory after six steps, with the n-grams of its text that tell most."""
    folder = tmp_path_factory.mktemp("trained")
    text = written_text(folder)
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    train(base, folder / "out", text, config=tiny.memory_config(), options=options())
    told = GateOptions(tokens=600, top=3)
    return read_gates(folder / "out", WORDS, data=text, options=told).to_dict()


def test_the_memory_has_learnt(reading):
    writes = [gate["write_norm"] for token in reading["tokens"] for gate in token["gates"]]
    assert min(writes) > 0
    assert any(token["loss"] != token["loss_off"] for token in reading["tokens"])


@needs_chromium
@pytest.mark.parametrize("width", [400, 1200])
def test_tokens_render_and_hover_shows_the_ngram(show, reading, width):
    tab = show(gates_html(reading), width=width)
    texts = tab.evaluate("[...document.querySelectorAll('#tokens bdi')].map(it => it.textContent)")
    assert texts == [marked(token["text"]) for token in reading["tokens"]]
    tab.hover("#tokens bdi:nth-of-type(4)")
    tab.rest()
    panel = tab.evaluate("document.getElementById('panel').textContent")
    for ngram in reading["tokens"][3]["ngrams"]:
        assert marked(ngram["text"]) in panel
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    body = tab.evaluate("document.body.textContent")
    for told in reading["telling"]:
        assert marked(told["text"]) in body

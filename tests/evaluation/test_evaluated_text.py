"""`choose_documents`: those that a run held out, those that it learned from, or all."""

from __future__ import annotations

import json

from engram.corpus.text.text_options import TextOptions
from engram.evaluation.evaluated_text import choose_documents
from engram.training.documents import TrainingDocuments


def test_documents_are_those_that_were_held_out_and_as_many_that_were_not(place, out):
    numbers = json.loads((out / "engram_held_out.json").read_text())["documents"]
    stated = json.loads((out / "engram_training.json").read_text())
    documents = TrainingDocuments(place.text, out, held_out_share=None)
    chosen = choose_documents(documents, stated, 10**6, 0)
    assert chosen.split == "held_out"
    assert chosen.numbers.tolist() == numbers
    assert [it.tolist() for it in chosen.main] == [documents.tokens(n).tolist() for n in numbers]
    total = sum(map(len, chosen.main))
    assert sum(map(len, chosen.training)) == total
    others = [documents.tokens(n).tolist() for n in range(len(documents)) if n not in numbers]
    assert all(it.tolist() in others for it in chosen.training[:-1])
    assert any(it[: len(chosen.training[-1])] == chosen.training[-1].tolist() for it in others)
    assert chosen.notes == ()
    # Another text, or this one by other rules, was not trained on.
    lines = TextOptions(split="line", add_eos=False)
    for other in (
        TrainingDocuments(place.text, out, options=lines, held_out_share=None),
        TrainingDocuments([[5, 6, 7]] * 9, out, held_out_share=None),
    ):
        assert choose_documents(other, stated, 10**6, 0).split == "all"
    for unknown in (None, {"steps": 3}):
        assert choose_documents(documents, unknown, 10**6, 0).split == "all"


def test_tokens_are_cut_in_a_random_order(place, out):
    documents = TrainingDocuments(place.text, out, held_out_share=None)
    for most in (2, 150, 1001, 5000):
        chosen = choose_documents(documents, None, most, 1)
        assert sum(map(len, chosen.main)) in (most, most - 1)  # a token by itself is not read
        assert f"of {documents.n_tokens:,} tokens were read" in chosen.notes[0]
    assert sorted(chosen.numbers) != list(range(len(chosen.numbers)))
    other = choose_documents(documents, None, 5000, 2)
    assert chosen.numbers.tolist() != other.numbers.tolist()

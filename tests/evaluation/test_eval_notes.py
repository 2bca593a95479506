"""Notes of an evaluation: what its numbers cannot say is said, and only that."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from engram.evaluation import EvalOptions, evaluate
from engram.evaluation.eval_notes import _of_memorising
from engram.evaluation.evaluation import compare_runs
from engram.pictures.eval_page import eval_html
from engram.training.document_loss import DocumentLosses
from support import evaluated
from support.evaluated import SHORT, nats


def test_a_memory_that_memorises_is_named(place):
    text = evaluated.random_text(place.folder / "random.txt")
    folder = place.trained("memorising", text, steps=60, table_lr=1.0, lr=1e-2, held_out=0.5)
    found = evaluate(folder, text, options=EvalOptions(bootstrap=300))
    assert found.memorised_nats > 0.05
    (note,) = [it for it in found.notes if it.startswith("The memory memorises")]
    assert f"by {-found.training.minus('off').nats:.4f} nats a token on text of its" in note


def test_one_document_has_no_interval(place, out, tmp_path):
    (tmp_path / "one.txt").write_text(place.text.read_text().partition("\n\n")[0])
    found = evaluate(out, tmp_path / "one.txt", options=SHORT)
    assert found.losses.sizes["documents"] == 1
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert all(it["low"] is it["high"] is None for it in answer["differences"])
    assert answer["differences"][0]["nats"] == nats(found, "on") - nats(found, "off")
    assert "one document gives no interval" in found.verdict
    assert not any("memorises" in note or "too short" in note for note in found.notes)
    assert any(note.startswith("One document gives no interval") for note in found.notes)
    page = eval_html(answer)
    assert "<table" in page
    assert "95 % interval" not in page


def test_few_documents_do_not_show_that_a_memory_memorises():
    """Intervals of the parts do not overlap, but are of 3 documents each."""
    tokens = np.full(3, 50)
    parts = [
        {name: DocumentLosses(tokens * of, tokens, tokens, True) for name, of in runs.items()}
        for runs in ({"on": 2.0, "off": 2.1}, {"on": 1.0, "off": 2.0})
    ]
    few = [compare_runs(part, 50, 0) for part in parts]
    assert not [*_of_memorising(*few)]
    many = [
        {
            name: DocumentLosses(*(np.tile(it, 9) for it in (of.nats, of.tokens, of.bytes)), True)
            for name, of in part.items()
        }
        for part in parts
    ]
    assert len([*_of_memorising(*(compare_runs(part, 50, 0) for part in many))]) == 1


def test_an_untrained_memory_adds_nothing(place):
    found = evaluate(place.attached, place.text, options=SHORT)
    assert nats(found, "on") == nats(found, "off") == nats(found, "permuted")
    assert found.split == "all"
    assert found.training is None
    assert found.memorised_nats is None
    assert found.needles is None
    text = "\n".join(found.notes)
    assert "adds nothing" in text
    assert "known only beside a control" in text
    assert all(it.share_of_gain is None for it in found.groups)
    assert {it.by for it in found.groups} == {"frequency", "word_part"}
    assert found.frequency_source == "the evaluated text"
    assert "trained on another text" not in text
    assert all(it.write_norm == 0 for it in found.layers)


def test_one_row_a_head_is_named(place):
    folder = place.trained("uniform", control="uniform", steps=4)
    found = evaluate(folder, place.text, options=SHORT)
    assert nats(found, "on") == nats(found, "permuted") != nats(found, "off")
    assert any("Permuting rows changes nothing" in note for note in found.notes)


def test_a_base_that_was_trained_too_is_left_out_unless_it_is_given(place):
    folder = place.trained("all", train="all", steps=4)
    found = evaluate(folder, place.text, options=SHORT)
    assert list(found.losses.runs) == ["on", "off", "permuted"]
    assert list(found.positions[0].runs) == ["on", "off"]
    assert any("give it with --base" in note for note in found.notes)
    given = evaluate(folder, place.text, base=place.base, options=SHORT)
    assert list(given.losses.runs) == ["on", "off", "permuted", "base"]
    assert nats(given, "base") != nats(given, "off")
    assert not any("--base" in note for note in given.notes)
    assert nats(given, "on") == nats(found, "on")


def test_a_control_that_was_trained_on_the_evaluated_documents_is_named(place, out):
    other = place.trained("other-split", held_out_seed=5, steps=4)
    found = evaluate(out, place.text, against=[other, place.base], options=SHORT)
    assert (
        "other-split was trained on some of the documents that are evaluated here." in found.notes
    )
    (again,) = [name for name in found.losses.runs if name.endswith("/base")]
    assert nats(found, "base") == pytest.approx(nats(found, again))
    frozen = place.trained("frozen", control="frozen-random")
    fair = evaluate(out, place.text, against=[frozen], options=SHORT)
    assert not any("some of the documents" in note for note in fair.notes)
    every = replace(SHORT, tokens=10**5)
    untrained = evaluate(place.attached, place.text, against=[frozen], options=every)
    assert any("some of the documents" in note for note in untrained.notes)

"""`evaluate`: numbers of an independent script, the right documents, and honest notes."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engram
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError, MissingFileError, UsageError
from engram.evaluation import EvalOptions, evaluate
from engram.evaluation.eval_notes import _of_memorising
from engram.evaluation.evaluated_text import choose_documents
from engram.evaluation.evaluation import compare_runs
from engram.pictures.eval_page import eval_html
from engram.training import train
from engram.training.document_loss import DocumentLosses
from engram.training.documents import TrainingDocuments
from support import evaluated, tiny
from support.paths import BPE
from support.trained import options

independent_losses = runpy.run_path(str(Path(__file__).parent / "independent_eval.py"))[
    "independent_losses"
]
SHORT = EvalOptions(bootstrap=200, context=24, tokens=600)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return evaluated.place(tmp_path_factory)


@pytest.fixture(scope="module")
def out(place):
    return place.trained("out")


@pytest.fixture(scope="module")
def found(place, out):
    """A whole evaluation of what the training held out, beside a control."""
    frozen = place.trained("frozen", control="frozen-random")
    return evaluate(
        out,
        place.text,
        against=[frozen, place.trained("dense", control="dense", steps=4)],
        seen=place.text,
        options=EvalOptions(bootstrap=300, needles=1, needle_context=100),
    )


def nats(found, run):
    return found.losses.runs[run].nats_per_token


@pytest.mark.filterwarnings("ignore:.*trust_remote_code.*")
def test_losses_equal_those_of_an_independent_script(place, out, found):
    assert found.context == 32
    assert found.split == "held_out"
    numbers = found.to_dict()
    held_out = out / "engram_held_out.json"
    for run, folder in {"on": out, "off": place.base, "base": place.base}.items():
        expected = independent_losses(folder, place.text, found.context, held_out)
        for name in ("tokens", "bytes"):
            assert numbers[name] == expected.pop(name)
        assert numbers["runs"][run] == pytest.approx(expected, rel=1e-6)
    stated = json.loads((out / "engram_training.json").read_text())["held_out"]
    assert numbers["runs"]["on"]["nats_per_token"] == pytest.approx(stated["nats_per_token"])


def test_runs_are_told_apart_and_compared(found):
    assert list(found.losses.runs) == ["on", "off", "permuted", "base", "frozen", "dense"]
    assert nats(found, "off") == nats(found, "base")
    assert nats(found, "on") < nats(found, "permuted") - 0.05
    assert [(it.a, it.b) for it in found.losses.differences] == [
        ("on", name) for name in list(found.losses.runs)[1:]
    ]
    for it in found.losses.differences:
        change = it.difference
        assert change.nats == pytest.approx(nats(found, "on") - nats(found, it.b))
        assert change.low < change.nats < change.high
    assert found.losses.minus("off").high < 0
    text = "\n".join(found.notes)
    assert "check of wiring alone" in text
    assert "dense was trained on 256 tokens, the memory on 2.56K." in found.notes
    assert "frozen was" not in text
    assert "beside a control" not in text


def test_groups_and_positions_add_up_to_the_whole(found):
    sizes = found.losses.sizes
    total = {name: found.losses.runs[name].nats.sum() for name in ("on", "off")}
    for by in ("frequency", "ngram", "word_part"):
        groups = [it for it in found.groups if it.by == by]
        assert len(groups) > 1, by
        assert sum(it.tokens for it in groups) == sizes["tokens"]
        for name in total:
            sums = sum(it.tokens * getattr(it, f"nats_{name}") for it in groups)
            assert sums == pytest.approx(total[name])
    # Of windows of 32 tokens each, every position occurs as often as any other.
    count = found.position_windows.windows
    assert [it.tokens for it in found.positions] == [count * it for it in (1, 2, 4, 8, 16)]
    assert found.position_windows.left_out > 0
    assert any(f"of {count} windows of at least 32 tokens" in note for note in found.notes)
    assert [it.first for it in found.positions] == [1, 2, 4, 8, 16]
    assert found.positions[-1].last == 31


def test_the_answer_for_programs_has_every_key(found, place):
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert next(iter(answer)) == "schema"
    assert answer["schema"] == "engram.eval/1"
    assert set(answer) == {
        *("schema", "target", "text", "verdict", "context", "split"),
        *("tokens", "bytes"),
        *("documents", "bytes_are_exact", "runs", "differences", "resamples", "training"),
        *("groups", "frequency_source", "positions", "position_windows"),
        *("needles", "layers", "notes"),
    }
    assert answer["frequency_source"] == answer["text"] == str(place.text)
    assert set(answer["training"]) == {
        *("tokens", "bytes", "documents", "runs", "differences", "memorised_nats")
    }
    assert {it["run"] for it in answer["needles"]["items"]} == {"on", "off", "base"}
    assert answer["needles"]["runs"].keys() == {"on", "off", "base"}
    assert repr(found).startswith("<Evaluation of ")


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


def test_a_memory_that_does_not_memorise_is_not(found):
    assert abs(found.memorised_nats) < 0.05
    assert "memorises" not in " ".join(found.notes)


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


def test_an_adapter_a_corpus_and_tables_on_disk_give_the_same_numbers(place, out, tmp_path):
    whole = evaluate(out, place.text, options=SHORT)
    adapter = tmp_path / "adapter"
    settings = options(**evaluated.SETTINGS)
    train(place.attached, adapter, place.text, adapter=True, options=settings)
    beside = evaluate(place.base, place.text, adapter, options=SHORT)
    on_disk = evaluate(out, place.text, tables="disk", options=SHORT)
    for other in (beside, on_disk):
        assert other.split == "held_out"
        for run in ("on", "off", "permuted", "base"):
            assert nats(other, run) == pytest.approx(nats(whole, run), rel=1e-6)
        for mine, its in zip(whole.layers, other.layers, strict=True):
            assert its.row_rms == pytest.approx(mine.row_rms)
            assert its.gate_quartiles == pytest.approx(mine.gate_quartiles, rel=1e-5)
    build_corpus(place.text, BPE, tmp_path / "corpus")
    found = evaluate(out, tmp_path / "corpus", seen=place.text, options=SHORT)
    assert found.split == "all"
    assert any("or on this one read by other rules" in note for note in found.notes)


def test_bfloat16_is_near(place, out):
    whole = evaluate(out, place.text, options=SHORT)
    rough = evaluate(out, place.text, options=replace(SHORT, bf16=True))
    assert nats(rough, "on") != nats(whole, "on")
    for run in ("on", "off", "permuted", "base"):
        assert nats(rough, run) == pytest.approx(nats(whole, run), rel=0.05)


def test_every_stream_of_a_model_with_several_counts(tmp_path_factory, place):
    _, attached = tiny.family_folders("deepseek_v4", tmp_path_factory)
    folder = tmp_path_factory.mktemp("streams") / "random"
    shutil.copytree(attached, folder)
    tiny.randomise(engram.load(attached)).save_pretrained(folder)
    found = evaluate(folder, place.text, options=SHORT)
    assert nats(found, "off") == pytest.approx(nats(found, "base"), rel=1e-6)
    assert nats(found, "on") != nats(found, "off")
    for layer in found.layers:
        assert 0 < layer.gate_quartiles[0] < layer.gate_quartiles[2] < 1
        assert layer.write_norm > 0


def test_windows_are_as_long_as_the_model_can_read(tmp_path_factory, place):
    _, attached = tiny.family_folders("gpt2", tmp_path_factory)
    short = {"bootstrap": 50, "tokens": 600}
    assert evaluate(attached, place.text, options=EvalOptions(**short)).context == 128
    for name in ("context", "needle_context"):
        with pytest.raises(UsageError, match="longer than the 128 positions") as error:
            evaluate(attached, place.text, options=EvalOptions(**short, **{name: 129}))
        assert f"--{name.replace('_', '-')}" in error.value.hint
    # Positions that are not learned one by one have no end.
    longer = EvalOptions(**short, context=200)
    assert evaluate(place.attached, place.text, options=longer).context == 200


def test_what_is_wrong_is_named_before_anything_is_measured(place, out, monkeypatch):
    def measure(*_, **__):
        raise AssertionError("it was measured")

    monkeypatch.setattr("engram.evaluation.measured_runs.MeasuredRuns.measure", measure)
    with pytest.raises(MissingFileError, match="nothing"):
        evaluate(out, place.text, against=["./nothing"])
    with pytest.raises(UsageError, match="given twice"):
        evaluate(out, place.text, against=[out] * 2)
    with pytest.raises(MissingFileError):
        evaluate(out, place.folder / "none.txt")
    with pytest.raises(UsageError, match="needles and their questions"):
        evaluate(out, place.text, options=EvalOptions(needles=9))
    with pytest.raises(InputError, match="Every token of the seen text is evaluated"):
        evaluate(place.attached, place.text, seen=place.text)
    for wrong in ({"tokens": 1}, {"context": 1}, {"bootstrap": 0}, {"seed": -1}):
        with pytest.raises(UsageError):
            EvalOptions(**wrong)


def test_a_base_that_cannot_read_the_needles_is_refused(place, tmp_path):
    base = tiny.base_model("gpt2", tmp_path / "short", sizes={"n_positions": 64})
    options = replace(SHORT, needles=1, needle_context=100)
    with pytest.raises(UsageError, match="longer than the 64 positions") as error:
        evaluate(place.attached, place.text, base=base, options=options)
    assert "--needle-context" in error.value.hint
    found = evaluate(place.attached, place.text, against=[base], options=options)
    assert "short" in found.losses.runs


def test_a_text_that_is_shorter_than_the_context_of_the_needles_is_told(place, tmp_path):
    (tmp_path / "one.txt").write_text(place.text.read_text()[:300])
    found = evaluate(
        place.attached,
        tmp_path / "one.txt",
        options=EvalOptions(bootstrap=10, needles=1, needle_context=5000),
    )
    assert found.needles.context < 5000
    assert any(
        f"hidden in {found.needles.context:,} tokens, not in 5,000" in note for note in found.notes
    )


def test_a_loss_that_is_not_a_number_is_an_error(place, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(place.attached, folder)
    model = engram.load(place.attached)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="not a finite number in the run on"):
        evaluate(folder, place.text, options=SHORT)


def test_progress_counts_the_tokens_of_all_runs(place, out):
    told = []
    evaluate(
        out,
        place.text,
        against=[place.base],
        options=EvalOptions(tokens=400, needles=1, needle_context=100, bootstrap=10),
        progress=lambda done, total: told.append((done, total)),
    )
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}


def test_counts_are_of_the_text_that_was_not_held_out(place, out, found):
    documents = TrainingDocuments(place.text, out, held_out_share=0.2)
    ids = np.concatenate([documents.tokens(number) for number in documents.training])
    counts = np.bincount(ids, minlength=tiny.VOCAB)
    held = np.concatenate(
        [
            ids[begin + 1 : begin + found.context]
            for ids in documents.read_held_out()
            for begin in range(0, len(ids) - 1, found.context)
        ]
    )
    rare = int((counts[held] < 10).sum())
    groups = {it.group: it.tokens for it in found.groups if it.by == "frequency"}
    assert groups.get("0", 0) + groups.get("1-9", 0) == rare

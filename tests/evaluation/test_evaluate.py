"""`evaluate`: numbers of an independent script, all that an answer holds, and refusals."""

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
from engram.errors import InputError, MissingFileError, UsageError
from engram.evaluation import EvalOptions, evaluate
from engram.training import train
from engram.training.documents import TrainingDocuments
from support import evaluated, tiny
from support.evaluated import SHORT, nats
from support.paths import BPE
from support.trained import options

independent_losses = runpy.run_path(str(Path(__file__).parent / "independent_eval.py"))[
    "independent_losses"
]


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


def test_a_memory_that_does_not_memorise_is_not(found):
    assert abs(found.memorised_nats) < 0.05
    assert "memorises" not in " ".join(found.notes)


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

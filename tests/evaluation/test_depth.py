"""`measure_depth`: a case whose answer is known, models that change nothing, and what is read."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError, LayoutError, MissingFileError, UsageError
from engram.evaluation import Depth, DepthOptions, measure_depth
from engram.evaluation.depth_result import early_layers, settled
from engram.training import train
from engram.training.controls import apply_control
from support import next_token_memory as known
from support.paths import REPOSITORY
from support.tiny import attached_model, base_model, memory_config, randomise
from support.trained import options, written_text

NO_EOS = TextOptions(add_eos=False)
FEW = DepthOptions(tokens=400, context=24)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A memory that holds the next token, and a text of its source."""
    folder = tmp_path_factory.mktemp("source")
    return known.write_models(folder), known.write_source(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A text, a base, its attached folder, and that folder with random weights in the memory."""
    folder = tmp_path_factory.mktemp("tiny")
    base = base_model("llama", folder / "base", sizes={"num_hidden_layers": 6})
    attached_model(base, folder / "attached", memory_config())
    attached_model(base, folder / "adapter", memory_config(), adapter=True)
    save(randomise(engram.load(folder / "attached")), folder / "random", base)
    written_text(folder)
    return folder


def save(model, folder, base):
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, folder / name)
    return folder


def test_a_memory_that_holds_the_next_token_frees_the_layers_after_it(source):
    found = measure_depth(*source, text=NO_EOS)
    assert found.memory_layers == (1,)
    assert found.early_layers == [1, 2]
    # Before the memory, nothing is known of the next token; from its layer on, everything.
    assert found.lens["on"][0] > 5
    assert max(found.lens["on"][1:]) < 1e-3
    assert max(found.lens_loss["on"][1:]) < 1e-3
    assert min(found.lens_loss["base"]) > 4
    assert found.lens["base"][1] > found.lens["base"][2] > found.lens["base"][3] > 1
    assert (found.reaches["on"], found.reaches["base"]) == (1, 2)
    (difference,) = found.differences
    assert (difference.a, difference.b) == ("on", "base")
    assert difference.low < difference.nats < difference.high < -2
    assert difference.nats == pytest.approx(found.early["on"] - found.early["base"])


def test_numbers_are_those_of_forward_passes_one_by_one(source):
    """Loss and divergence of the last layer but one, with nothing of the library but the model."""
    folder, text = source
    found = measure_depth(folder, text, text=NO_EOS)
    model = engram.load(folder)
    kept = []
    model.model.layers[-2].register_forward_hook(lambda *call: kept.append(call[-1]))
    losses, divergences = [], []
    for paragraph in text.read_text().split("\n\n"):
        ids = torch.tensor([[int(word[1:]) for word in paragraph.split()]])
        with torch.no_grad():
            last = model(input_ids=ids).logits[0].double().log_softmax(-1)
            logs = model.lm_head(model.model.norm(kept.pop()))[0].double().log_softmax(-1)
        for place in range(1, ids.shape[1] - 1):
            losses.append(-float(last[place, ids[0, place + 1]]))
            divergences.append(float((last[place].exp() * (last[place] - logs[place])).sum()))
    assert found.tokens == len(losses)
    assert found.lens_loss["on"][-1] == pytest.approx(np.mean(losses), abs=1e-6)
    assert found.lens["on"][-2] == pytest.approx(np.mean(divergences), abs=1e-6)


def test_an_identity_changes_nothing_to_the_bit(tiny):
    found = measure_depth(
        tiny / "attached", tiny / "text.txt", base=tiny / "base", options=FEW
    ).to_dict()
    for key in ("lens", "lens_loss", "effective_depth", "early", "reaches"):
        assert list(found[key]) == ["on", "base", "off"]
        assert found[key]["on"] == found[key]["off"] == found[key]["base"], key
    on, base, off = (it["matrix"] for it in found["cka"])
    assert on == off == base
    np.testing.assert_allclose(np.diagonal(on), 1, rtol=1e-12)
    assert {it["nats"] for it in found["differences"]} == {0.0}


def test_without_its_memory_a_model_is_its_base(tiny):
    own = measure_depth(tiny / "random", tiny / "text.txt", options=FEW)
    named = measure_depth(tiny / "random", tiny / "text.txt", base=tiny / "base", options=FEW)
    assert own.base is None
    assert named.base == str(tiny / "base")
    for measured in ("lens", "lens_loss", "cka"):
        one, other = getattr(own, measured), getattr(named, measured)
        assert one["base"] == other["base"] == other["off"]
        assert one["on"] == other["on"] != one["base"]
    # The memory is read from layer 1 on; what layer 0 gives, no memory can change.
    assert own.cka["on"][0][0] == pytest.approx(1)
    assert own.lens_loss["on"][0] == own.lens_loss["base"][0]


def test_an_adapter_and_tables_on_disk_are_read_alike(tiny):
    folder, text = tiny / "attached", tiny / "text.txt"
    whole = measure_depth(folder, text, options=FEW)
    beside = measure_depth(tiny / "base", text, tiny / "adapter", options=FEW)
    assert beside.lens == whole.lens
    assert beside.target == str(tiny / "adapter")
    in_ram = measure_depth(tiny / "random", text, options=FEW)
    assert measure_depth(tiny / "random", text, options=FEW, tables="disk").lens == in_ram.lens


def test_controls_stand_beside_it(tiny, tmp_path):
    dense = apply_control(engram.load(tiny / "attached"), "dense", seed=1)
    dense.finish()
    dense.save(tmp_path / "dense")
    deeper = base_model("llama", tmp_path / "deeper", sizes={"num_hidden_layers": 8})
    found = measure_depth(
        tiny / "random",
        tiny / "text.txt",
        against=[tiny / "attached", tmp_path / "dense", deeper],
        options=FEW,
    )
    assert list(found.lens) == ["on", "base", "attached", "dense", "deeper"]
    # Neither the identity nor a dense part that was not trained adds anything.
    assert found.lens["attached"] == found.lens["dense"] == found.lens["base"]
    assert (found.layers, len(found.lens["deeper"])) == (6, 8)
    assert np.shape(found.cka["deeper"]) == (6, 8)
    assert "deeper" not in found.depth_gained
    assert found.depth_gained["attached"] == 0
    pairs = [(it.a, it.b) for it in found.differences]
    others = ["attached", "dense", "deeper"]
    assert pairs == [
        *((name, "base") for name in ["on", *others]),
        *(("on", name) for name in others),
    ]
    json.dumps(found.to_dict(), allow_nan=False)


def test_tokens_and_documents_are_bounded_and_depend_on_the_seed(tiny):
    folder, text = tiny / "attached", tiny / "text.txt"
    found = measure_depth(folder, text, options=FEW)
    assert 300 < found.tokens < 400
    again, other = (
        measure_depth(folder, text, options=DepthOptions(tokens=400, context=24, seed=seed))
        for seed in (0, 1)
    )
    assert again.to_dict() == found.to_dict()
    assert other.lens != found.lens
    assert other.early["on"] == pytest.approx(found.early["on"], rel=0.2)
    assert repr(found).startswith("<Depth: early layers ")


def test_a_corpus_is_read_as_its_text(tiny, tmp_path):
    (sources, _), tokenizer = find_sources(tiny / "text.txt"), load_tokenizer(str(tiny / "base"))
    build_corpus(sources, tokenizer, tmp_path / "tokens", TextOptions())
    from_text = measure_depth(tiny / "random", tiny / "text.txt", options=FEW)
    from_corpus = measure_depth(tiny / "random", tmp_path / "tokens", options=FEW)
    assert from_corpus.lens == from_text.lens


def test_of_its_training_text_only_what_was_held_out_is_read(tiny, tmp_path):
    train(
        tiny / "attached",
        tmp_path / "out",
        tiny / "text.txt",
        options=options(steps=2, held_out=0.2, held_out_seed=3),
    )
    held_out = json.loads((tmp_path / "out" / "engram_held_out.json").read_text())
    found = measure_depth(tmp_path / "out", tiny / "text.txt")
    assert found.split == "held_out"
    assert found.context == 32  # that of the training
    assert found.documents <= len(held_out["documents"]) < 40
    assert "held out" in found.notes[0]
    (tmp_path / "other.txt").write_text((tiny / "text.txt").read_text() + "\n\nAnother one.")
    assert measure_depth(tmp_path / "out", tmp_path / "other.txt").split == "all"


def test_one_document_has_no_interval(tiny):
    words = " ".join(f"w{number % 40}" for number in range(60))
    found = measure_depth(tiny / "random", [words], options=FEW)
    (difference,) = found.differences
    assert found.documents == 1
    assert found.text == "documents"
    assert (difference.low, difference.high) == (None, None)


def test_a_pass_of_windows_of_two_tokens_alone_counts_nothing(tiny):
    """Two documents of 1,024 tokens fill a pass, and one of two is left for the next."""
    numbers = np.random.default_rng(0)
    long = [numbers.integers(60, 500, 1024).tolist() for _ in range(2)]
    how = {"text": NO_EOS, "options": DepthOptions(tokens=5000, context=1024)}
    found = measure_depth(tiny / "random", [*long, [70, 71]], **how)
    without = measure_depth(tiny / "random", long, **how)
    assert found.tokens == without.tokens == 2 * 1022
    assert found.documents == 2
    assert found.lens["on"] == pytest.approx(without.lens["on"])


def test_too_little_text_is_refused(tiny):
    with pytest.raises(InputError, match="between the first and the last of a window are needed"):
        measure_depth(tiny / "attached", [[5, 6], [7, 8, 9], [10, 11]], text=NO_EOS)
    with pytest.raises(UsageError, match="context must be >= 2"):
        DepthOptions(context=1)
    with pytest.raises(LayoutError, match="an adapter"):
        measure_depth(tiny / "attached", tiny / "text.txt", against=[tiny / "adapter"])


def test_windows_are_not_longer_than_learned_positions(tmp_path):
    base = base_model("gpt2", tmp_path / "base", sizes={"n_positions": 16})
    folder = attached_model(base, tmp_path / "attached", memory_config())
    text = written_text(tmp_path)
    assert measure_depth(folder, text).context == 16
    with pytest.raises(UsageError, match="longer than the 16 positions"):
        measure_depth(folder, text, options=DepthOptions(context=24))


def test_a_base_whose_weights_were_trained_beside_the_memory_is_told(source, tmp_path):
    folder, text = source
    trained = shutil.copytree(folder, tmp_path / "trained")
    stated = {"data": {"sha256": "0"}, "options": {"train": "all", "context": 16}}
    stated["options"] |= {"held_out": 0.05, "held_out_seed": 0}
    (trained / "engram_training.json").write_text(json.dumps(stated))
    notes = measure_depth(trained, text, text=NO_EOS, options=DepthOptions(nearest=6)).notes
    assert "trained beside it" in notes[0]
    assert "average all of them" in notes[1]


def test_other_statements_of_a_training_are_left_alone(tiny, tmp_path):
    folder = shutil.copytree(tiny / "random", tmp_path / "stated")
    (folder / "engram_training.json").write_text('{"steps": 3}')
    found = measure_depth(folder, tiny / "text.txt", options=DepthOptions(tokens=400))
    assert found.context == 128  # 512, as far as the model was made for it
    assert not any("trained beside it" in note for note in found.notes)


def test_a_loss_that_is_not_a_number_is_an_error(tiny, tmp_path):
    folder = shutil.copytree(tiny / "base", tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="not a finite number in the run broken"):
        measure_depth(tiny / "attached", tiny / "text.txt", against=[folder], options=FEW)


@pytest.mark.parametrize("how", [{"against": ["./nothing"]}, {"base": "./nothing"}])
def test_a_model_that_is_not_there_is_named_before_anything_is_read(tiny, how, monkeypatch):
    monkeypatch.setattr("engram.evaluation.layer_depth.open_model", None)
    with pytest.raises(MissingFileError, match="nothing"):
        measure_depth(tiny / "attached", tiny / "text.txt", **how)


def test_early_layers_are_the_first_half_from_the_memory_on():
    assert [*range(12)[early_layers(12, 1)]] == [1, 2, 3, 4, 5]
    assert [*range(12)[early_layers(12, 8)]] == [8]
    assert [*range(4)[early_layers(4, 8)]] == [3]
    assert settled([3, 1, 2, 0.5, 0], 1.5) == 3
    assert settled([1, 1, 0], 1.5) == 0


@pytest.mark.slow
def test_a_memory_that_learned_a_source_frees_the_layers_after_it(tmp_path, monkeypatch):
    """The second-order source of the benchmark, which a base of this size cannot learn."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    synthetic = importlib.import_module("synthetic_source")
    base = known.write_base(tmp_path / "base", layers=4)
    config = known.memory(engram_table_size=[20_000, 20_000], max_ngram_size=3, n_head_per_ngram=4)
    engram.attach(base, config, tmp_path / "attached", init="zero-table")
    model = engram.load(tmp_path / "attached")
    learned = synthetic.Source()
    synthetic.train(model, learned, synthetic.Training(steps=150), seed=0)
    alone = AutoModelForCausalLM.from_pretrained(base)
    synthetic.train(alone, learned, synthetic.Training(init=None, steps=150), seed=0)
    trained = save(model, tmp_path / "trained", base)
    documents = learned.draw(60, seed=2**32 - 1).tolist()
    found: Depth = measure_depth(trained, documents, text=NO_EOS)
    (difference,) = found.differences
    assert difference.high < -0.05
    assert found.lens["on"][1] < 0.5 * found.lens["base"][1]
    # Nor does a base that was trained alone know what the layer of the memory knows.
    folder = save(alone, tmp_path / "alone", base)
    beside = measure_depth(trained, documents, text=NO_EOS, base=folder)
    assert beside.lens_loss["on"][1] < min(beside.lens_loss["base"]) - 0.5

"""`read_gates`: gates, writes, losses and rows equal those that are computed in another way.

Shapes: B sequences, T tokens, M streams, D hidden size.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.errors import InputError, MismatchError, MissingFileError, UsageError
from engram.evaluation import GateOptions, gate_reading, open_model, read_gates
from engram.hf.unwired import base_of
from engram.training.documents import TrainingDocuments
from support import tiny
from support.layouts import LAYOUTS, random_memory
from support.tiny import FAMILIES

STREAMS = "four streams"
EVERY = [*LAYOUTS, *([STREAMS] if "deepseek_v4" in FAMILIES else [])]
TEXT = "Alexander the Great saw the Milky Way é👩.\nBy the way, it is wide."


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with a random memory of every layout, and one of four streams."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    made = {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }
    if STREAMS in EVERY:
        folder = tmp_path_factory.mktemp("streams")
        base = tiny.base_model("deepseek_v4", folder / "base")
        made[STREAMS] = random_memory(base, folder / "attached", "demo", hc_mult=4)
    return made


each = pytest.mark.parametrize("name", EVERY)


def normed(x, weight, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def gates_by_hand(module, hidden, memory):
    """Gates by the formula of a layout, from the hidden states and the rows ``[B, T, M]``."""
    config = module.config
    streams = hidden.reshape(*hidden.shape[:2], config.hc_mult, config.hidden_size).double()
    module = module.double()
    if config.layout == "deepseek_v41":
        keys = module.wkv(memory.double())[..., : config.hc_mult * config.hidden_size]
        weights = module.k_weight, module.q_weight
    else:
        keys = module.key_proj(memory.double())
        if config.layout == "demo":
            weights = module.norm_key, module.norm_query
        else:
            shape = streams.shape[-2:]
            weights = (1 + it.weight.view(shape) for it in (module.norm_key, module.norm_query))
    key, query = weights
    eps = torch.finfo(torch.float32).eps if config.eps is None else config.eps
    keys = normed(keys.reshape(streams.shape), key, eps)
    agreement = (keys * normed(streams, query, eps)).sum(-1) / config.hidden_size**0.5
    return torch.sigmoid(agreement.abs().clamp_min(1e-6).sqrt() * agreement.sign())


def watched(folder, ids):
    """Gates by hand and relative writes of every layer ``[T, M]``, from hooks; and the logits."""
    model, seen = engram.load(folder), {}
    memories = {it.layer_id: it for it in model.modules() if isinstance(it, engram.EngramModule)}
    for layer_id, memory in memories.items():
        seen[layer_id] = []
        memory.multi_head_embedding.register_forward_hook(
            lambda _, args, out, layer_id=layer_id: seen[layer_id].append(out)
        )
        memory.register_forward_hook(
            lambda _, args, kwargs, out, layer_id=layer_id: seen[layer_id].append(
                (args[0], out[0] if isinstance(out, tuple) else out)
            ),
            with_kwargs=True,
        )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
        found = {}
        for layer_id, (memory, (hidden, out)) in sorted(seen.items()):
            shape = (len(ids), -1, tiny.HIDDEN)
            before, after = hidden[0].reshape(shape), out[0].reshape(shape)
            writes = (after - before).norm(dim=-1) / before.norm(dim=-1)
            gates = gates_by_hand(memories[layer_id], hidden, memory)[0]
            found[layer_id] = gates.float(), writes
    return found, logits


def losses_of(logits, ids):
    logs = logits[0].double().log_softmax(-1)
    return [-float(logs[at, ids[at + 1]]) for at in range(len(ids) - 1)]


@each
def test_gates_and_writes_are_those_of_hooks(folders, name):
    reading = read_gates(folders[name], TEXT)
    ids = load_tokenizer(folders[name]).tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert [*reading.text.tokens.ids] == ids
    found, _ = watched(folders[name], ids)
    assert reading.layer_ids == (*found,) == (1, 2)
    streams = 4 if name == STREAMS else 1
    assert reading.text.readings.gates.shape == (len(ids), 2, streams)
    for place, (gates, writes) in enumerate(found.values()):
        read = reading.text.readings
        np.testing.assert_allclose(read.gates[:, place], gates, atol=1e-5)
        np.testing.assert_allclose(read.write_norms[:, place], writes, rtol=2e-3, atol=1e-4)
        assert np.ptp(read.gates[:, place]) > 0.05


@each
def test_losses_are_those_of_the_model_and_of_its_base(folders, name):
    read = read_gates(folders[name], TEXT).text
    ids = read.tokens.ids
    model = engram.load(folders[name])
    with torch.no_grad():
        on, off = (
            losses_of(it(input_ids=torch.tensor([ids])).logits, ids)
            for it in (model, base_of(model))
        )
    assert np.isnan(read.readings.loss[0])
    assert np.isnan(read.readings.loss_off[0])
    np.testing.assert_allclose(read.readings.loss[1:], on, rtol=1e-5)
    np.testing.assert_allclose(read.readings.loss_off[1:], off, rtol=1e-5)
    assert not np.allclose(on, off, atol=0.1)


def test_rows_are_those_that_the_model_looks_up(tmp_path_factory):
    """Caught at the look-up itself; layers are stated in another order than they have."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    folder = tmp_path_factory.mktemp("order") / "attached"
    tiny.attached_model(base, folder, tiny.memory_config(layer_ids=[2, 1]))
    opened, seen = open_model(folder), {}

    def keep(layer_id, part, args):
        seen.setdefault(layer_id, (args[0] + part.offsets).flatten(2)[0].cpu())

    for memory in opened.model.modules():
        if isinstance(memory, engram.EngramModule):
            memory.multi_head_embedding.register_forward_pre_hook(partial(keep, memory.layer_id))
    for token, one, two in zip(
        read_gates(opened, TEXT).to_dict()["tokens"], seen[1], seen[2], strict=True
    ):
        for layer_id, rows in ((1, one), (2, two)):
            read = [
                row
                for gram in token["ngrams"]
                for it in gram["rows"]
                if it["layer_id"] == layer_id
                for row in it["rows"]
            ]
            assert read == rows.tolist()
    assert not torch.equal(seen[1], seen[2])


@each
def test_rows_and_ngrams_are_those_of_a_lookup(folders, name):
    tokens = read_gates(folders[name], TEXT).to_dict()["tokens"]
    found = engram.look_up(folders[name], TEXT)
    for layer in found.layers:
        rows = [
            [next(it["rows"] for it in gram["rows"] if it["layer_id"] == layer.layer_id)]
            for token in tokens
            for gram in token["ngrams"]
        ]
        assert np.array_equal(np.array(rows).reshape(layer.rows.shape), layer.rows)
    for repeated in found.repeated.values():
        for ngram in repeated:
            first = tokens[ngram.positions[0]]["ngrams"]
            assert ngram.text in {gram["text"] for gram in first}


@pytest.mark.skipif(STREAMS not in EVERY, reason="deepseek_v4 is not among the families")
def test_the_json_holds_every_gate(folders):
    reading = read_gates(folders[STREAMS], TEXT)
    answer = json.loads(json.dumps(reading.to_dict(), allow_nan=False))
    assert [*answer] == [
        *("schema", "target", "text", "layout", "layers", "streams", "orders", "tokens"),
        *("collisions", "telling", "notes"),
    ]
    assert answer["schema"] == "engram.gates/1"
    assert (answer["layers"], answer["streams"], answer["orders"]) == ([1, 2], 4, [2, 3, 4])
    assert "".join(token["text"] for token in answer["tokens"]) == answer["text"] == TEXT
    assert answer["collisions"] is answer["telling"] is None
    read = reading.text.readings
    for position, token in enumerate(answer["tokens"]):
        assert token["loss"] == (read.loss[position] if position else None)
        assert token["loss_off"] == (read.loss_off[position] if position else None)
        places = [(gate["layer_id"], gate["stream"]) for gate in token["gates"]]
        assert places == [(layer, stream) for layer in (1, 2) for stream in range(4)]
        for gate in token["gates"]:
            place = (position, answer["layers"].index(gate["layer_id"]), gate["stream"])
            assert gate["gate"] == read.gates[place]
            assert gate["write_norm"] == read.write_norms[place]
        assert [gram["order"] for gram in token["ngrams"]] == [2, 3, 4]
    assert repr(reading).endswith("2 layers of 4 gates>")


@pytest.mark.parametrize("name", ["demo", "qwen_ple"])
def test_long_texts_are_read_in_windows(folders, name):
    opened = open_model(folders[name])
    whole = read_gates(opened, TEXT, options=GateOptions(context=16))
    (note,) = whole.notes
    assert "in 3 windows of up to 16" in note
    cut = whole.text.tokens.pieces
    for begin in range(0, len(cut), 16):
        end = min(begin + 16, len(cut))
        piece = read_gates(opened, TEXT[cut[begin][0] : cut[end - 1][1]])
        assert piece.notes == ()
        assert piece.text.tokens.ids == whole.text.tokens.ids[begin:end]
        for one in ("gates", "write_norms", "loss", "loss_off"):
            here = getattr(whole.text.readings, one)[begin:end]
            np.testing.assert_allclose(here, getattr(piece.text.readings, one), atol=2e-5)
        assert np.array_equal(whole.text.rows[begin:end], piece.text.rows)
        assert np.array_equal(whole.text.first[begin:end] - begin, piece.text.first)


def test_a_window_is_never_longer_than_the_model_was_made_for(folders):
    text = "the way " * 60
    (note,) = read_gates(folders["demo"], text).notes
    assert "in 3 windows of up to 128" in note


def test_a_context_beyond_learned_positions_is_refused(tmp_path_factory):
    attached = tiny.family_folders("gpt2", tmp_path_factory)[1]
    assert "of up to 128" in read_gates(attached, "the way " * 60).notes[0]
    with pytest.raises(UsageError, match="longer than the 128 positions"):
        read_gates(attached, TEXT, options=GateOptions(context=129))


def test_a_text_with_too_many_tokens_to_show_is_refused(folders, monkeypatch):
    monkeypatch.setattr("engram.evaluation.gate_reading._MOST_TOKENS", 20)
    assert len(read_gates(folders["demo"], "A" * 20).text.tokens.ids) <= 20
    with pytest.raises(InputError, match="of up to 20 is shown") as error:
        read_gates(folders["demo"], TEXT)
    assert "--text and --tokens" in error.value.hint


def test_of_the_text_of_the_training_held_out_documents_are_read(place, out, monkeypatch):
    kept = []
    real = gate_reading.cut_windows

    def cut(documents, context):
        kept.extend(documents)
        return real(documents, context)

    monkeypatch.setattr(gate_reading, "cut_windows", cut)
    reading = read_gates(out, data=place.text)
    numbers = json.loads((out / "engram_held_out.json").read_text())["documents"]
    documents = TrainingDocuments(place.text, out, held_out_share=None)
    assert [it.tolist() for it in kept] == [documents.tokens(n).tolist() for n in numbers]
    assert any("only documents that were held out are read" in note for note in reading.notes)
    kept.clear()
    every = read_gates(place.attached, data=place.text)
    assert len(kept) == len(documents)
    assert not any("held out" in note for note in every.notes)
    first = []
    for seed in (0, 0, 1):
        kept.clear()
        read_gates(place.attached, data=place.text, options=GateOptions(tokens=200, seed=seed))
        first.append(kept[0].tolist())
    assert first[0] == first[1] != first[2]


def test_one_token_has_gates_and_no_loss(folders):
    (token,) = read_gates(folders["demo"], "A").to_dict()["tokens"]
    assert token["loss"] is token["loss_off"] is None
    assert len(token["gates"]) == 2


def test_tables_on_disk_and_an_adapter_read_the_same(folders, tmp_path, tmp_path_factory):
    expected = read_gates(folders["demo"], TEXT).to_dict()
    assert read_gates(folders["demo"], TEXT, tables="disk").to_dict() == expected
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    engram.attach(base, tiny.memory_config(), tmp_path / "adapter", adapter=True)
    save = tmp_path / "adapter"
    for file in folders["demo"].glob("engram-*.safetensors"):
        (own,) = save.glob("*.safetensors")
        own.write_bytes(file.read_bytes())
    beside = read_gates(base, TEXT, save).to_dict()
    assert beside["target"] == str(save)
    assert beside["tokens"] == expected["tokens"]


def test_a_model_in_bfloat16(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", torch.bfloat16)
    folder = random_memory(base, tmp_path / "attached", "demo")
    read = read_gates(folder, TEXT).text
    ids = read.tokens.ids
    model = engram.load(folder)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        on, off = (
            losses_of(it(input_ids=torch.tensor([ids])).logits, ids)
            for it in (model, base_of(model))
        )
    np.testing.assert_allclose(read.readings.loss[1:], on, rtol=1e-5)
    np.testing.assert_allclose(read.readings.loss_off[1:], off, rtol=1e-5)
    gates = read.readings.gates
    assert ((gates > 0) & (gates < 1)).all()
    assert np.isfinite(read.readings.write_norms).all()


def test_collisions_are_those_of_the_statistics(folders, tmp_path):
    opened = open_model(folders["demo"])
    (tmp_path / "text.txt").write_text("By the way, the Milky Way is wide.\n\n" * 9)
    hashed = engram.hash_text(tmp_path / "text.txt", opened.config, str(folders["demo"])).to_dict()
    (tmp_path / "stats.json").write_text(json.dumps(hashed))
    found = read_gates(opened, "A", stats=tmp_path / "stats.json").to_dict()["collisions"]
    assert found["source"] == "stats.json"
    assert [layer["layer_id"] for layer in found["layers"]] == [1, 2]
    stated = {layer["layer_id"]: layer["heads"] for layer in hashed["layers"]}
    for layer in found["layers"]:
        assert len(layer["heads"]) == 6
        for head, own in zip(layer["heads"], stated[layer["layer_id"]], strict=True):
            assert [*head] == ["order", "head", "load", "collisions", "distinct_ngrams", "kind"]
            assert head.items() <= own.items()
    with pytest.raises(MismatchError, match="for another memory"):
        read_gates(folders["qwen_ple"], "A", stats=tmp_path / "stats.json")
    (tmp_path / "stats.json").write_text('{"schema": "engram.hash/1"}')
    with pytest.raises(InputError, match="is not a result of engram hash --stats --json"):
        read_gates(opened, "A", stats=tmp_path / "stats.json")
    with pytest.raises(MissingFileError):
        read_gates(opened, "A", stats=tmp_path / "none.json")


def test_nothing_to_read_is_refused(folders):
    with pytest.raises(UsageError, match="nothing to read"):
        read_gates(folders["demo"])
    with pytest.raises(InputError, match="no tokens"):
        read_gates(folders["demo"], "")
    with pytest.raises(UsageError, match="context must be >= 2"):
        GateOptions(context=1)

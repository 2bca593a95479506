"""Controls: frozen random rows, one row for each head, and a feed-forward part of equal size."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import engram
from engram.errors import CorruptFileError, InputError, LayoutError, MismatchError, UsageError
from engram.hf.wiring import find_layers
from engram.nn import MultiHeadEmbedding
from engram.training import (
    MemoryOptimizer,
    apply_control,
    freeze_backbone,
    load_control,
    permute_rows,
)
from engram.training.dense_control import width_of_equal
from support import tiny

IDS = torch.randint(3, tiny.VOCAB, (2, 24), generator=torch.Generator().manual_seed(7))
OTHER_IDS = torch.randint(3, tiny.VOCAB, (2, 24), generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folders(request, tmp_path_factory):
    return tiny.family_folders(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def base(folders):
    return AutoModelForCausalLM.from_pretrained(folders[0]).eval()


@pytest.fixture
def model(folders):
    return engram.load(folders[1])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def train(model, control, steps=3):
    """Train as a run does: freeze, restrict, one optimiser of everything that may learn."""
    freeze_backbone(model)
    control.restrict()
    optimizer = MemoryOptimizer(model, lr=0.02, table_lr=0.5)
    losses = []
    for _ in range(steps):
        loss = model.train()(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def tables(model):
    return [it.embedding.weight for it in model.modules() if isinstance(it, MultiHeadEmbedding)]


@pytest.mark.parametrize("name", ["frozen-random", "uniform", "dense"])
def test_every_control_starts_as_the_base_and_learns_without_touching_it(base, model, name):
    before = {key: value.clone() for key, value in base.state_dict().items()}
    control = apply_control(model, name, seed=5)
    assert torch.equal(logits(control.model), logits(base))
    losses = train(control.model, control, steps=6)
    assert losses[-1] < losses[0] - 0.05
    control.finish()
    state = control.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_frozen_random_rows_are_normal_seeded_and_stay(folders, model):
    control = apply_control(model, "frozen-random", seed=5)
    drawn = [table.clone() for table in tables(model)]
    values = torch.cat([table.flatten() for table in drawn])
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    assert not torch.equal(drawn[0][:600], drawn[1][:600])
    first = next(m for m in model.modules() if type(m).__name__ == "DemoModule")
    projection = first.value_proj.weight.clone()
    assert not projection.any()
    train(model, control)
    assert all(torch.equal(a, b) for a, b in zip(tables(model), drawn, strict=True))
    assert all(not table.requires_grad for table in tables(model))
    assert not torch.equal(first.value_proj.weight, projection)
    # Whatever the memory was before, and whatever torch's own generator did in between.
    torch.randn(3)
    again = tiny.randomise(engram.load(folders[1]), seed=9)
    apply_control(again, "frozen-random", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(tables(again), drawn, strict=True))
    keys = [it.key_proj.weight for it in again.modules() if type(it).__name__ == "DemoModule"]
    assert keys[0].abs().max() > 0
    apply_control(again, "frozen-random", seed=6)
    assert not torch.equal(tables(again)[0], drawn[0])


def test_rows_of_a_part_of_a_table_are_those_of_the_whole():
    from engram.nn.rows import RamRows
    from engram.training.controls import _draw_rows

    def drawn(start, stop):
        part = torch.nn.Embedding(stop - start, 4)
        part.rows = RamRows(part.weight, first_row=start)
        _draw_rows(part, "key")
        return part.weight

    whole = drawn(0, 9000)
    assert torch.equal(drawn(3000, 8500), whole[3000:8500])
    assert len(whole.unique(dim=0)) == 9000


def test_uniform_reads_one_row_a_head_and_is_saved_with_it_everywhere(model, tmp_path):
    tiny.randomise(model)
    control = apply_control(model, "uniform")
    before = [table.clone() for table in tables(model)]
    train(model, control)
    heads = [it for it in model.modules() if isinstance(it, MultiHeadEmbedding)]
    for it, old in zip(heads, before, strict=True):
        changed = (it.embedding.weight != old).any(dim=1).nonzero().flatten().tolist()
        assert changed == it.offsets.tolist()
    expected, other = logits(model), logits(model, OTHER_IDS)
    folder = control.save(tmp_path / "saved")
    for it in heads:
        start = 0
        for size in it.head_sizes:
            rows = it.embedding.weight[start : start + size]
            assert torch.equal(rows, rows[:1].expand_as(rows))
            start += size
    assert len(heads[0].embedding.weight.unique(dim=0)) >= len(heads[0].head_sizes)
    assert torch.equal(logits(model), expected)
    loaded = engram.load(folder)
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(loaded, OTHER_IDS), other)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(loaded.engram_decoder.engram_token_map)
    with permute_rows(loaded):
        assert torch.equal(logits(loaded), expected)


def test_uniform_cannot_tell_n_grams_apart(model):
    tiny.randomise(model)
    apply_control(model, "uniform")
    seen = []
    heads = next(it for it in model.modules() if isinstance(it, MultiHeadEmbedding))
    heads.register_forward_hook(lambda _, __, out: seen.append(out))
    logits(model)
    logits(model, OTHER_IDS)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][0, 0], seen[0][1, 5])


def test_dense_has_as_many_parameters_layer_by_layer(folders, model):
    held = {
        layer_id: tiny.params_of(layer.engram, "")
        for layer_id, layer in enumerate(find_layers(model)[1])
        if hasattr(layer, "engram")
    }
    control = apply_control(model, "dense", seed=1)
    layers = find_layers(control.model)[1]
    parts = {i: layer.engram for i, layer in enumerate(layers) if hasattr(layer, "engram")}
    assert parts.keys() == held.keys()
    for layer_id, part in parts.items():
        params = tiny.params_of(part, "")
        assert control.layers[layer_id]["params"] == params
        assert control.layers[layer_id]["memory_params"] == held[layer_id]
        assert abs(params - held[layer_id]) <= tiny.HIDDEN
    trained = sum(weight.numel() for weight in control.trainable)
    assert trained == sum(found["params"] for found in control.layers.values())
    assert type(control.model).__name__.startswith(("Llama", "GPT2"))
    # Another seed gives another start, and the same one the same.
    again = [apply_control(engram.load(folders[1]), "dense", seed=seed) for seed in (1, 2)]
    assert torch.equal(again[0].trainable[1], control.trainable[1])
    assert not torch.equal(again[1].trainable[1], control.trainable[1])


@pytest.mark.parametrize("params", [1, 100, 5_000, 123_456_789])
def test_no_other_width_is_nearer(params):
    hidden, width = 48, width_of_equal(params, 48)
    of = [abs(hidden + 2 * hidden * near - params) for near in (width - 1, width, width + 1)]
    assert of[1] <= of[2]
    assert of[1] <= of[0] or width == 1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("reference", ["attached", "base"])
def test_dense_is_saved_and_loaded(folders, model, tmp_path, reference):
    control = apply_control(model, "dense")
    train(control.model, control)
    tiny.checkpointing(control.model, True)
    train(control.model, control, steps=1)
    tiny.checkpointing(control.model, False)
    expected = logits(control.model)
    given = {"base": folders[0]} if reference == "base" else {}
    folder = control.save(tmp_path / "control", **given)
    stated = json.loads((folder / "engram_control.json").read_text())
    assert stated["base"]["name"] == str(folders[0 if given else 1].resolve())
    loaded = load_control(folder)
    assert torch.equal(logits(loaded), expected)
    assert not torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(folders[0])))
    assert torch.equal(logits(load_control(folder, model=folders[0])), expected)
    control.save(folder)  # again
    generated = loaded.generate(IDS[:1, :4], max_new_tokens=3, do_sample=False)
    assert generated.shape == (1, 7)


def test_dense_keeps_what_was_trained_of_the_base(model, tmp_path):
    control = apply_control(model, "dense")
    head = control.model.get_input_embeddings().weight
    with torch.no_grad():
        head.mul_(1.5)
    expected = logits(control.model)
    for weight in control.model.parameters():
        weight.requires_grad_(True)
    assert torch.equal(logits(load_control(control.save(tmp_path / "all"))), expected)


def test_what_is_no_control_of_this_base_is_refused(model, tmp_path):
    folder = apply_control(model, "dense").save(tmp_path / "control")
    other = tiny.base_model("llama", tmp_path / "other", sizes={"intermediate_size": 40})
    with pytest.raises(MismatchError, match="has other tensors"):
        load_control(folder, model=other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not replaced"):
        apply_control(model, "dense").save(tmp_path / "mine")
    weights = folder / "engram_control.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match="not what the control needs"):
        load_control(folder)


def test_permuted_rows_are_those_of_the_same_heads_and_come_back(model):
    tiny.randomise(model)
    expected = logits(model)
    heads = next(it for it in model.modules() if isinstance(it, MultiHeadEmbedding))
    every = torch.arange(min(heads.head_sizes))[:, None].expand(-1, len(heads.head_sizes))
    before = heads(every).unflatten(1, (len(heads.head_sizes), -1))
    with permute_rows(model, seed=3):
        permuted = logits(model)
        moved = heads(every).unflatten(1, (len(heads.head_sizes), -1))
    assert not torch.allclose(permuted, expected, atol=1e-3)
    assert torch.equal(logits(model), expected)
    with permute_rows(model, seed=3):
        assert torch.equal(logits(model), permuted)
    for column, start in enumerate(heads.offsets.tolist()):
        rows = heads.embedding.weight[start : start + heads.head_sizes[column]]
        found = (moved[:, None, column] == rows[None]).all(dim=-1)  # [rows read, rows of the head]
        assert found.sum(dim=1).eq(1).all()
        assert found.sum(dim=0).max() == 1
        assert (moved[:, column] == before[:, column]).all(dim=-1).float().mean() < 0.2


def test_tables_that_cannot_be_written_to_are_refused(folders):
    on_disk = engram.load(folders[1], tables="disk")
    for name in ("frozen-random", "uniform"):
        with pytest.raises(LayoutError, match="cannot be a control's"):
            apply_control(on_disk, name)
    assert apply_control(on_disk, "dense").layers


def test_a_model_without_a_memory_and_an_unknown_name_are_refused(base, model):
    for name in ("frozen-random", "uniform", "dense"):
        with pytest.raises(UsageError, match="has no memory"):
            apply_control(base, name)
    with pytest.raises(UsageError, match="must be one of 'frozen-random', 'uniform', 'dense'"):
        apply_control(model, "shuffled")

"""The module of layout qwen_ple: golden vectors, and transformers' own qwen4_exp as the oracle."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache
from transformers.models.qwen4_exp.modeling_qwen4_exp import (
    Qwen4ExpTextPLELayer,
)

from engram import EngramConfig
from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids
from engram.errors import MismatchError
from engram.hf.compat import cache_name
from engram.layouts import get_layout
from engram.nn import EngramModule, QwenPleModule
from support.near import assert_near
from support.paths import GOLDEN
from support.qwen import EOS, LENGTH, random_qwen

TENSORS = load_file(GOLDEN / "qwen4_exp_ple_forward_f32.safetensors")
STATE = {name[6:]: value for name, value in TENSORS.items() if name.startswith("state.")}
SPLITS = [[1] * LENGTH, [2, 9, 1, 17], [20, 1, 1, 7], [LENGTH]]


def small_config(**changes):
    values = {
        "layout": "qwen_ple",
        "hidden_size": 16,
        "engram_vocab_size": 512,
        "engram_table_size": [200, 200],
        "max_ngram_size": 3,
        "n_embed_per_ngram": 8,
        "n_head_per_ngram": 2,
        "layer_ids": [1],
        "hc_mult": 4,
        "kernel_size": 4,
        "eos_id": EOS,
        "row_multiple": 8,
        "table_dtype": "float32",
    }
    return EngramConfig(**{**values, **changes})


def built(config, layer_id=1, **kwargs):
    addresses = Addresses.from_config(config, None)
    return EngramModule(config, addresses.vocab_distributions[layer_id], **kwargs)


def randomised(module, seed=0):
    """Give every weight a random value, so that nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return module


def inputs(config, batch=2, length=LENGTH, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch, length, config.hc_mult, config.hidden_size, generator=generator)
    ids = torch.randint(0, 101, (batch, length, config.n_columns), generator=generator)
    return hidden.to(dtype), ids


def in_pieces(module, hidden, ids, splits, keep=None):
    """Run piece by piece, with the window that decoding remembers."""
    outputs, window, start = [], None, 0
    for size in splits:
        piece = slice(start, start + size)
        mask = None if keep is None else keep[:, piece]
        out, past = module(
            hidden[:, piece], ids[:, piece], keep=mask, window=window, return_past=True
        )
        window = past.window
        outputs.append(out)
        start += size
    return torch.cat(outputs, dim=1)


def close(got, expected, roundings=32):
    assert_near(got, expected, roundings)


def test_golden_forward():
    module = built(small_config())
    assert type(module) is QwenPleModule
    module.load_state_dict(STATE)
    addresses = Addresses.from_config(small_config(), None)
    ids = torch.from_numpy(hash_ids(addresses, TENSORS["in.input_ids"].numpy())[0])
    hidden = TENSORS["in.hidden_states"].unflatten(-1, (4, 16))
    out = module(hidden, ids)
    close(out.flatten(2), TENSORS["out"])
    close(module.add(hidden, ids) - hidden, out)
    assert out.abs().max() > 0.1


@pytest.fixture(scope="module")
def oracle():
    return random_qwen()


def oracle_config(**changes):
    return small_config(
        **{
            "engram_vocab_size": 96,
            "engram_table_size": [150, 150],
            "n_embed_per_ngram": 12,
            "n_head_per_ngram": 3,
            "layer_ids": [2, 1],
            "hc_mult": 2,
            "eps": 1e-5,
            "row_multiple": 16,
            **changes,
        }
    )


def recorded(model, ids, splits, mask=None):
    """Run the oracle and collect, per PLE layer, hidden states, row ids and outputs."""
    seen = {1: ([], [], []), 2: ([], [], [])}
    handles = []
    for layer_id, (hidden, rows, out) in seen.items():
        ple = model.model.layers[layer_id].ple
        assert isinstance(ple, Qwen4ExpTextPLELayer)
        table = ple.ple_embedding.ngram_embedding
        handles += [
            ple.register_forward_pre_hook(lambda _, args, seen=hidden: seen.append(args[0])),
            table.register_forward_pre_hook(lambda _, args, seen=rows: seen.append(args[0])),
            ple.register_forward_hook(lambda _, args, output, seen=out: seen.append(output)),
        ]
    past = DynamicCache(config=model.config) if len(splits) > 1 else None
    name, start = cache_name(model.forward), 0
    for size in splits:
        end = start + size
        model(
            input_ids=ids[:, start:end],
            attention_mask=None if mask is None else mask[:, :end],
            use_cache=past is not None,
            **{name: past},
        )
        start = end
    for handle in handles:
        handle.remove()
    return {
        layer_id: [torch.cat(parts, dim=1) for parts in lists] for layer_id, lists in seen.items()
    }


def ours(model, layer_id, config=None):
    config = config or oracle_config()
    module = built(config, layer_id)
    module.load_state_dict(model.model.layers[layer_id].ple.state_dict())
    return module.requires_grad_(False)


def hashed_in_pieces(addresses, ids, splits):
    parts, history, start = [], None, 0
    for size in splits:
        part, history = hash_ids(addresses, ids[:, start : start + size], history=history)
        parts.append(part)
        start += size
    return torch.from_numpy(np.concatenate(parts, axis=1))


@pytest.mark.parametrize("splits", SPLITS, ids=str)
def test_ids_and_outputs_are_those_of_transformers(oracle, splits):
    model, ids = oracle
    addresses = Addresses.from_config(oracle_config(), None)
    hashed = hashed_in_pieces(addresses, ids.numpy(), splits)
    for layer_id, (hidden, rows, out) in recorded(model, ids, splits).items():
        slot = addresses.layer_ids.index(layer_id)
        assert torch.equal(
            hashed[:, :, slot] + torch.tensor(addresses.layers[slot].offsets), rows
        ), layer_id
        module = ours(model, layer_id)
        hidden = hidden.unflatten(-1, (2, 16))
        close(in_pieces(module, hidden, hashed, splits), out.view_as(hidden))
        close(module(hidden, hashed), out.view_as(hidden))
        assert out.abs().amax(dim=-1).min() > 0.01


@pytest.mark.parametrize("splits", [[LENGTH], [9, LENGTH - 9]], ids=str)
def test_masked_tokens_are_those_of_transformers(oracle, splits):
    """Pads before a row's tokens, and between them: they read as ends of text, and add zero."""
    model, ids = oracle
    mask = torch.ones_like(ids)
    mask[0, :5], mask[1, :1], mask[1, 12:15], mask[2, 3:6], mask[2, -2:] = 0, 0, 0, 0, 0
    addresses = Addresses.from_config(oracle_config(), None)
    keep = mask.bool()
    hashed, _ = hash_ids(addresses, ids.numpy(), keep=keep.numpy())
    hashed = torch.from_numpy(hashed)
    for layer_id, (hidden, rows, out) in recorded(model, ids, splits, mask).items():
        slot = addresses.layer_ids.index(layer_id)
        offsets = torch.tensor(addresses.layers[slot].offsets)
        assert torch.equal((hashed[:, :, slot] + offsets)[keep], rows[keep])
        hidden = hidden.unflatten(-1, (2, 16))
        for got in (
            ours(model, layer_id)(hidden, hashed, keep=keep),
            in_pieces(ours(model, layer_id), hidden, hashed, splits, keep),
        ):
            close(got[keep], out.view_as(hidden)[keep])
            assert not got[~keep].any()


def test_half_precision_follows_transformers(oracle):
    model, ids = oracle
    addresses = Addresses.from_config(oracle_config(), None)
    hashed = hashed_in_pieces(addresses, ids.numpy(), [LENGTH])
    hidden, _, out = recorded(model, ids, [LENGTH])[1]
    module = ours(model, 1).bfloat16()
    got = module(hidden.unflatten(-1, (2, 16)).bfloat16(), hashed)
    assert got.dtype == torch.bfloat16
    assert (got.flatten(2) - out).abs().max() < 0.03 * out.abs().max()


def test_a_checkpoint_that_transformers_saved_loads(oracle, tmp_path):
    """Saved tables are in shards; the memory of each layer is found under its prefix."""
    model, _ = oracle
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer_id in (1, 2):
        prefix = next(
            name.partition("ple.")[0] + "ple."
            for name in tensors
            if f"layers.{layer_id}.ple." in name
        )
        state = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        assert sum("shard_" in name for name in state) == 4
        module = built(oracle_config(), layer_id)
        module.load_state_dict(state)
        expected = ours(model, layer_id).state_dict()
        assert all(
            torch.equal(value, expected[name]) for name, value in module.state_dict().items()
        )
        del state["ple_embedding.ngram_embedding.shard_2.weight"]
        with pytest.raises(
            RuntimeError, match="Missing key.*multi_head_embedding.embedding.weight"
        ):
            module.load_state_dict(state)


@pytest.mark.parametrize(
    "name", ["layer_multipliers", "ngram_heads_vocab_sizes", "ngram_heads_offsets"]
)
def test_constants_of_another_memory_are_refused(name):
    state = {key: value.clone() for key, value in STATE.items()}
    state[f"ple_embedding.{name}"][1] += 2
    with pytest.raises(MismatchError, match=rf"{name}|offsets"):
        built(small_config()).load_state_dict(state)


def test_multipliers_are_checked_by_the_layers_place(oracle):
    """Built from plain lists a module does not know its layer, but its primes tell."""
    model, _ = oracle
    first, second = (model.model.layers[layer_id].ple.state_dict() for layer_id in (1, 2))
    config = oracle_config(layer_ids=[])
    primes = Addresses.from_config(oracle_config(), None).vocab_distributions
    EngramModule(config, [list(row) for row in primes[2]]).load_state_dict(second)
    swapped = {
        **second,
        "ple_embedding.layer_multipliers": first["ple_embedding.layer_multipliers"],
    }
    with pytest.raises(MismatchError, match="layer_multipliers"):
        EngramModule(config, [list(row) for row in primes[2]]).load_state_dict(swapped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_pieces_equal_the_whole(streams, dtype):
    config = small_config(hc_mult=streams)
    module = randomised(built(config)).to(dtype)
    hidden, ids = inputs(config, dtype=dtype)
    whole = module(hidden, ids)
    generator = torch.Generator().manual_seed(streams)
    for _ in range(6):
        cuts = torch.randperm(LENGTH - 1, generator=generator)[: streams + 2] + 1
        ends = [0, *sorted(cuts.tolist()), LENGTH]
        splits = [end - start for start, end in itertools.pairwise(ends)]
        close(in_pieces(module, hidden, ids, splits), whole, 64)
    assert module.window_tokens == 9
    if streams == 1:
        assert torch.equal(module(hidden[:, :, 0], ids), module(hidden, ids)[:, :, 0])


def test_float64_is_the_formula_written_out():
    config = small_config(hc_mult=2)
    module = randomised(built(config)).double()
    hidden, ids = inputs(config, dtype=torch.float64)

    def norm(x, weight):
        rms = (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x / rms * (1 + weight.unflatten(0, (2, 16)))

    memory = module.multi_head_embedding(ids)
    value = memory @ module.value_proj.weight.T
    keys = (memory @ module.key_proj.weight.T).unflatten(-1, (2, 16))
    agreement = (norm(keys, module.norm_key.weight) * norm(hidden, module.norm_query.weight)).sum(
        -1
    )
    agreement = agreement / 16**0.5
    gated = torch.sigmoid(agreement.sign() * agreement.abs().sqrt())[..., None] * value[:, :, None]
    normed = norm(gated, module.norm_conv.weight).flatten(2)
    conv = torch.zeros_like(normed)
    for tap in range(4):
        back = (3 - tap) * 3
        shifted = torch.zeros_like(normed)
        shifted[:, back:] = normed[:, : LENGTH - back]
        conv += shifted * module.conv1d.weight[:, 0, tap]
    expected = gated + (conv * torch.sigmoid(conv)).view_as(gated)
    torch.testing.assert_close(module(hidden, ids), expected)
    assert_near(module.float()(hidden.float(), ids), expected.float(), 64)


def test_masked_positions_get_and_give_nothing():
    config = small_config()
    module = randomised(built(config))
    hidden, ids = inputs(config)
    keep = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(3)) < 0.6
    out = module.add(hidden, ids, keep=keep)
    assert torch.equal(out[~keep], hidden[~keep])
    other_hidden, other_ids = hidden.clone(), ids.clone()
    other_hidden[~keep] *= -3
    other_ids[~keep] = 7
    assert torch.equal(module.add(other_hidden, other_ids, keep=keep)[keep], out[keep])
    close(in_pieces(module, hidden, ids, [4, 1, 24], keep), out - hidden, 64)
    assert (out[keep] - module.add(hidden, ids)[keep]).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_identity_adds_exactly_nothing(dtype):
    config = small_config()
    module = built(config, init="identity").to(dtype)
    hidden, ids = inputs(config, dtype=dtype)
    assert torch.equal(module.add(hidden, ids), hidden)
    assert module.key_proj.weight.abs().max() > 0
    module.reset_parameters("paper")
    assert not torch.equal(module.add(hidden, ids), hidden)
    assert not module.norm_key.weight.any()
    assert not module.conv1d.weight.any()


def test_gradients_reach_every_weight_and_are_right():
    config = small_config(
        hidden_size=4, n_embed_per_ngram=4, hc_mult=2, kernel_size=2, table_dtype="float64"
    )
    module = randomised(built(config)).double()
    hidden, ids = inputs(config, batch=1, length=5, dtype=torch.float64)
    names, weights = zip(*module.named_parameters(), strict=True)
    dense = [i for i, name in enumerate(names) if "embedding" not in name]

    def run(hidden, *chosen):
        state = dict(zip(names, weights, strict=True))
        state |= {names[i]: value for i, value in zip(dense, chosen, strict=True)}
        return torch.func.functional_call(module, state, (hidden, ids))

    chosen = [weights[i] for i in dense]
    assert torch.autograd.gradcheck(run, (hidden.requires_grad_(), *chosen))
    run(hidden, *chosen).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_counted_parameters_are_those_built():
    config = small_config()
    module = built(config)
    counts = module.count_parameters()
    assert counts.pop("table") == 424 * 4
    assert counts == get_layout("qwen_ple").dense_parts(config.sizes)
    shapes = {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if not name.startswith("multi_head_embedding.")
    }
    assert shapes == get_layout("qwen_ple").dense_shapes(config.sizes)


def test_constants_of_the_release():
    released = json.loads((GOLDEN / "qwen3_8_flash_next_constants.json").read_text())
    config = small_config(
        hidden_size=2560,
        engram_vocab_size=248320,
        engram_table_size=[160_000_000] * 2,
        n_embed_per_ngram=1280,
        n_head_per_ngram=8,
        eos_id=248044,
        row_multiple=128,
    )
    layer = Addresses.from_config(config, None).layers[0]
    assert list(layer.multipliers) == released["multipliers"]
    assert list(layer.heads) == released["head_vocab_sizes"]
    assert list(layer.offsets) == released["offsets"]
    assert layer.stored_rows == released["rows_padded"]
    with torch.device("meta"):
        module = built(config)
    assert module.multi_head_embedding.embedding.weight.shape == (320_001_536, 160)
    assert module.count_parameters()["table"] == 51_200_245_760

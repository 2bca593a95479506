"""The module of layout deepseek_v41: the release's own output, masks, dtypes, streams, loading."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engram import EngramConfig
from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids
from engram.errors import MismatchError
from engram.layouts import get_layout
from engram.nn import DeepseekV41Module, EngramModule
from engram.nn.quantised import dequantise_fp8
from support.near import assert_near
from support.paths import GOLDEN

TENSORS = load_file(GOLDEN / "v41_forward_f32.safetensors")
STATE = {name[6:]: value for name, value in TENSORS.items() if name.startswith("state.")}


def small_config(**changes):
    values = {
        "layout": "deepseek_v41",
        "hidden_size": 32,
        "engram_vocab_size": 544,
        "engram_table_size": [100, 100],
        "max_ngram_size": 3,
        "n_embed_per_ngram": 128,
        "n_head_per_ngram": 2,
        "layer_ids": [0],
        "hc_mult": 2,
        "table_dtype": "bfloat16",
    }
    return EngramConfig(**{**values, **changes})


def golden_addresses():
    token_map = json.loads((GOLDEN / "token_map_local_bpe.json").read_text())["token_map"]
    return Addresses.from_config(small_config(), np.array(token_map, dtype=np.int32), pad_id=2)


def golden_module(dtype=torch.bfloat16):
    primes = golden_addresses().vocab_distributions[0]
    module = EngramModule(small_config(), primes, dtype=dtype)
    module.load_state_dict(STATE)
    return module


def golden_hash_ids(case):
    """Row ids of the release include offsets; ours do not."""
    offsets = torch.tensor(golden_addresses().layers[0].offsets)
    return TENSORS[f"{case}.row_ids"] - offsets


def golden_mask(case):
    return TENSORS["in.token_mask"] if case == "masked" else None


def random_module(config, seed=0):
    """Draw every weight, so that nothing is zero or one."""
    primes = [[11, 13], [17, 19], [23, 29]][: len(config.orders)]
    module = EngramModule(config, primes, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def inputs(config, batch=2, length=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch, length, config.hc_mult, config.hidden_size, generator=generator)
    ids = torch.randint(0, 11, (batch, length, config.n_columns), generator=generator)
    return hidden.to(dtype), ids


@pytest.mark.parametrize("case", ["plain", "masked"])
def test_ids_are_those_of_the_release(case):
    addresses, keep = golden_addresses(), golden_mask(case)
    ids = TENSORS["in.input_ids"].numpy()
    hashed, _ = hash_ids(addresses, ids, keep=None if keep is None else keep.numpy())
    assert np.array_equal(hashed[:, :, 0], golden_hash_ids(case).numpy())


@pytest.mark.parametrize("case", ["plain", "masked"])
def test_forward_is_that_of_the_release(case):
    module = golden_module()
    ids, keep = golden_hash_ids(case), golden_mask(case)
    looked_up = module.multi_head_embedding(ids)
    assert torch.equal(looked_up, TENSORS[f"{case}.embeddings_bf16"].flatten(2))
    out = module(TENSORS["in.x"], ids, keep=keep)
    assert_near(out, TENSORS[f"{case}.out"])


def test_half_precision_states_are_rounded_once():
    module, ids = golden_module(), golden_hash_ids("plain")
    hidden = TENSORS["in.x"].bfloat16()
    out = module(hidden, ids)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, module(hidden.float(), ids).bfloat16())
    error = (out.float() - TENSORS["plain.out"]).abs()
    assert error.max() < 2**-7 * TENSORS["plain.out"].abs().max()


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_streams_do_not_see_each_other(streams):
    config = small_config(hc_mult=streams)
    module = random_module(config)
    hidden, ids = inputs(config)
    out = module(hidden, ids)
    alone_config = small_config(hc_mult=1)
    alone = random_module(alone_config)
    for stream in range(streams):
        keys = module.wkv.weight[stream * 32 : (stream + 1) * 32]
        state = {
            **module.state_dict(),
            "wkv.weight": torch.cat([keys, module.wkv.weight[-32:]]),
            "k_weight": module.k_weight[stream : stream + 1],
            "q_weight": module.q_weight[stream : stream + 1],
        }
        alone.load_state_dict(state)
        expected = alone(hidden[:, :, stream], ids)  # [B, T, D]
        assert_near(out[:, :, stream], expected, 64)
    assert (out - hidden).abs().amax(dim=-1).min() > 0.01


def test_float64_and_float32_agree():
    config = small_config()
    module = random_module(config)
    hidden, ids = inputs(config, dtype=torch.float64)
    single = module(hidden.float(), ids)
    double = module.double()(hidden, ids)
    assert double.dtype == torch.float64
    assert_near(single, double.float(), 64)
    # Written out once more, from the release's formulas.
    memory = module.multi_head_embedding(ids)
    keys = (memory @ module.wkv.weight[:-32].T).unflatten(-1, (2, 32))
    value = memory @ module.wkv.weight[-32:].T
    scale = (hidden**2).mean(-1).rsqrt() * (keys**2).mean(-1).rsqrt() / 32**0.5
    agreement = (hidden * module.q_weight * module.k_weight * keys).sum(-1) * scale
    gates = torch.sigmoid(agreement.sign() * agreement.abs().sqrt())
    torch.testing.assert_close(double, hidden + gates[..., None] * value[:, :, None])


def test_masked_positions_are_untouched():
    config = small_config()
    module = random_module(config)
    hidden, ids = inputs(config)
    keep = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    out = module(hidden, ids, keep=keep)
    assert torch.equal(out[~keep], hidden[~keep])
    assert torch.equal(out[keep], module(hidden, ids)[keep])
    assert 0 < keep.sum() < keep.numel()


def test_the_gate_follows_the_sign_of_a_zero():
    config = small_config()
    module = random_module(config)
    _, ids = inputs(config)
    out = module(torch.zeros(2, 7, 2, 32), ids)
    value = module.multi_head_embedding(ids).float() @ module.wkv.weight[-32:].T
    root = torch.tensor(1e-6).sqrt()
    expected = torch.sigmoid(root) * value
    torch.testing.assert_close(out, expected[:, :, None].expand_as(out), rtol=1e-6, atol=0)


def test_pieces_equal_the_whole_and_nothing_is_remembered():
    config = small_config()
    module = random_module(config)
    hidden, ids = inputs(config)
    whole, past = module(hidden, ids, return_past=True)
    assert past is None
    assert module.window_tokens == 0
    assert torch.equal(module.add(hidden, ids), whole)
    pieces = [module(hidden[:, a:b], ids[:, a:b]) for a, b in ((0, 1), (1, 5), (5, 7))]
    assert_near(torch.cat(pieces, dim=1), whole, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_identity_adds_exactly_nothing(dtype):
    config = small_config(table_dtype="float32")
    module = EngramModule(config, [[11, 13], [17, 19]], init="identity").to(dtype)
    hidden, ids = inputs(config, dtype=dtype)
    assert torch.equal(module.add(hidden, ids), hidden)
    assert module.wkv.weight[:-32].abs().min() > 0
    module.reset_parameters("paper")
    assert not torch.equal(module.add(hidden, ids), hidden)


def test_gradients_reach_every_weight_and_are_right():
    config = small_config(hidden_size=4, n_embed_per_ngram=6, table_dtype="float64")
    module = random_module(config).double()
    hidden, ids = inputs(config, batch=1, length=3, dtype=torch.float64)
    names, weights = zip(*module.named_parameters(), strict=True)

    def run(hidden, *weights):
        state = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(module, state, (hidden, ids))

    assert torch.autograd.gradcheck(run, (hidden.requires_grad_(), *weights))
    run(hidden, *weights).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_counted_parameters_are_those_built():
    config = small_config(hc_mult=4)
    module = random_module(config)
    assert type(module) is DeepseekV41Module
    counts = module.count_parameters()
    assert counts.pop("table") == 60 * config.row_width
    assert counts == get_layout(config.layout).dense_parts(config.sizes)
    shapes = {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if not name.startswith("multi_head_embedding.")
    }
    assert shapes == get_layout(config.layout).dense_shapes(config.sizes)


def test_own_and_released_state_dicts_load_under_a_prefix():
    module = golden_module()
    again = torch.nn.ModuleDict({"engram": EngramModule(small_config(), golden_primes())})
    again.load_state_dict({f"engram.{name}": value for name, value in STATE.items()})
    twice = EngramModule(small_config(), golden_primes())
    twice.load_state_dict(module.state_dict())
    ids = golden_hash_ids("plain")
    expected = module.float()(TENSORS["in.x"], ids)
    for other in (again["engram"], twice):
        assert torch.equal(other.float()(TENSORS["in.x"], ids), expected)


def golden_primes():
    return golden_addresses().vocab_distributions[0]


def test_fp8_without_its_scales_is_refused():
    state = {name: value for name, value in STATE.items() if name != "embed.scale"}
    with pytest.raises(MismatchError, match="scales are missing"):
        EngramModule(small_config(), golden_primes()).load_state_dict(state)
    with pytest.raises(MismatchError, match=r"\[240, 2\]"):
        EngramModule(small_config(), golden_primes()).load_state_dict(
            {**STATE, "embed.scale": STATE["embed.scale"][:-1]}
        )


def test_fp8_projection_is_dequantised_by_blocks():
    codes = STATE["wkv.weight"].to(torch.float8_e4m3fn)
    scales = torch.randint(120, 132, (3, 8), dtype=torch.uint8)
    module = EngramModule(small_config(), golden_primes(), dtype=torch.float32)
    module.load_state_dict({**STATE, "wkv.weight": codes, "wkv.scale": scales})
    expected = codes.float() * torch.kron(2.0 ** (scales.float() - 127), torch.ones(32, 32))
    assert torch.equal(module.wkv.weight, expected)


def test_dequantised_values():
    codes = torch.tensor([[0x38, 0xB8, 0x7E, 0x01] * 10], dtype=torch.uint8)  # 1 -1 448 2^-9
    scales = torch.tensor([[127, 130]], dtype=torch.uint8)
    values = dequantise_fp8(codes.view(torch.float8_e4m3fn), scales, dtype=torch.float32)
    assert values[0, :4].tolist() == [1, -1, 448, 2**-9]
    assert values[0, 36:].tolist() == [8, -8, 3584, 2**-6]
    assert values.shape == (1, 40)
    nan = torch.full((1, 2), 255, dtype=torch.uint8)
    assert dequantise_fp8(codes.view(torch.float8_e4m3fn), nan).isnan().all()

"""Quantised rows: rounding within its bound, look-ups, dtypes, devices, and no training."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError
from engram.nn import EngramModule, QuantisedEmbedding
from engram.nn.quantised import (
    FORMATS,
    dequantise_fp8,
    dequantise_int8,
    quantise_fp8,
    quantise_int8,
)
from support.near import assert_near
from support.paths import GOLDEN

DTYPES = pytest.mark.parametrize("table_dtype", ["fp8", "int8"])


def rows(count=600, width=72, seed=0):
    """Rows of all magnitudes, with the corners among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, width, generator=generator)
    values *= torch.logspace(-9, 9, count)[:, None]
    values[0] = 0
    values[1] = 448
    values[2] = torch.tensor(448.0).nextafter(torch.tensor(1e9))
    values[3] = 3e38
    values[4, 0] = 1e6  # the rest of its block is small beside it
    values[5] = 1e-4
    return values


def block_max(values):
    count, width = values.shape
    blocks = -(-width // 32)
    padded = torch.nn.functional.pad(values, (0, blocks * 32 - width)).view(count, blocks, 32)
    return padded.abs().amax(-1).double().clamp_min(1e-4)


def test_fp8_scales_are_the_published_rule():
    values = rows()
    codes, scales = quantise_fp8(values)
    assert codes.dtype == torch.float8_e4m3fn
    assert scales.dtype == torch.float8_e8m0fnu
    assert scales.shape == (600, 3)
    expected = torch.exp2(torch.ceil(torch.log2(block_max(values) / 448)))
    assert torch.equal(scales.double(), expected)
    spread = expected.repeat_interleave(32, dim=1)[:, :72]
    clamped = (values.double() / spread).clamp(-448, 448).float()
    assert torch.equal(codes.float(), clamped.to(torch.float8_e4m3fn).float())


def test_fp8_stays_within_its_bound_and_the_bound_is_tight():
    values = rows()
    back = dequantise_fp8(*quantise_fp8(values), dtype=torch.float64)
    largest = block_max(values).repeat_interleave(32, dim=1)[:, :72]
    error = (back - values.double()).abs()
    bound = torch.maximum(values.double().abs() / 16, largest / 229_376)
    assert (error <= bound).all()
    assert (error <= largest / 16).all()
    # Half way between 16 and 18, in units of the scale: 1/17 of the value is lost.
    worst = torch.full((1, 32), 448.0)
    worst[0, 1] = 17.0
    lost = dequantise_fp8(*quantise_fp8(worst), dtype=torch.float32)[0, 1] - 17
    assert abs(float(lost)) == 1.0


def test_fp8_is_exact_on_what_it_can_say():
    values = rows()
    codes, scales = quantise_fp8(values)
    back = dequantise_fp8(codes, scales, dtype=torch.float32)
    again = dequantise_fp8(*quantise_fp8(back), dtype=torch.float32)
    assert torch.equal(again, back)
    assert torch.equal(dequantise_fp8(codes, scales, dtype=torch.bfloat16).float(), back)


def test_rows_of_the_released_width_take_264_bytes():
    codes, scales = quantise_fp8(rows(8, 256))
    assert codes[0].nbytes + scales[0].nbytes == 264


def test_int8_stays_within_half_a_step():
    values = rows()
    codes, scales = quantise_int8(values)
    assert (codes.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (600, 1))
    back = dequantise_int8(codes, scales, dtype=torch.float64)
    largest = values.double().abs().amax(dim=1, keepdim=True)
    error = (back - values.double()).abs()
    assert (error <= largest / 254 * (1 + 1e-5) + 1e-45).all()
    assert (error > largest / 260).any()
    assert codes.amin() >= -127


@DTYPES
def test_looking_up_equals_the_whole_table_dequantised(table_dtype):
    values, form = rows(50, 40), FORMATS[table_dtype]
    table = QuantisedEmbedding(50, 40, table_dtype)
    assert not table(torch.arange(50)).any()
    codes, scales = form.quantise(values)
    table.load_state_dict({"weight": codes, "scale": scales})
    ids = torch.tensor([[3, 49, 3], [0, 7, 7]])
    whole = form.dequantise(codes, scales, dtype=torch.float32)
    assert torch.equal(table(ids), whole[ids])
    assert table(ids[:, :0]).shape == (2, 0, 40)
    assert list(table.parameters()) == []
    for bad in (50, -1):
        with pytest.raises(IndexError):
            table(torch.tensor([bad]))
    assert torch.equal(copy.deepcopy(table)(ids), whole[ids])


@DTYPES
def test_casting_changes_what_comes_out_and_not_what_is_stored(table_dtype):
    values = rows(50, 40)
    table = QuantisedEmbedding(50, 40, table_dtype)
    table.load_state_dict(
        dict(zip(("weight", "scale"), FORMATS[table_dtype].quantise(values), strict=True))
    )
    stored = {name: value.view(torch.uint8).clone() for name, value in table.state_dict().items()}
    ids = torch.arange(50)
    exact = table(ids)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        module = torch.nn.ModuleList([table]).to(dtype)
        assert module[0](ids).dtype == dtype
        assert torch.equal(module[0](ids), exact.to(dtype))
    for name, value in table.half().to("meta").to_empty(device="cpu").state_dict().items():
        assert (value.dtype, value.shape) == (table.state_dict()[name].dtype, value.shape)
        assert value.view(torch.uint8).shape == stored[name].shape
    assert table.dtype == torch.float16


def test_other_formats_are_refused():
    with pytest.raises(LayoutError, match="fp4"):
        QuantisedEmbedding(4, 4, "fp4")
    table = QuantisedEmbedding(4, 40, "fp8")
    codes, scales = quantise_fp8(rows(6, 40)[:4])
    with pytest.raises(MismatchError, match=r"needs torch\.float8_e4m3fn"):
        table.load_state_dict({"weight": codes.float(), "scale": scales})
    with pytest.raises(RuntimeError, match="scale"):
        table.load_state_dict({"weight": codes})
    table.load_state_dict({"weight": codes, "scale": scales.view(torch.uint8)})
    assert torch.equal(table(torch.arange(4)), dequantise_fp8(codes, scales, dtype=torch.float32))


def golden_module(table_dtype):
    meta = json.loads((GOLDEN / "v41_forward_f32.json").read_text())["config"]
    heads = meta["engram_n_heads"]
    config = EngramConfig(
        layout="deepseek_v41",
        hidden_size=meta["dim"],
        engram_vocab_size=544,
        engram_table_size=[meta["engram_vocab_size"] * heads] * 2,
        max_ngram_size=meta["engram_max_ngram_size"],
        n_embed_per_ngram=meta["engram_head_dim"] * heads,
        n_head_per_ngram=heads,
        layer_ids=meta["engram_layer_ids"],
        hc_mult=meta["hc_mult"],
        pad_id=2,
        table_dtype=table_dtype,
    )
    tensors = load_file(GOLDEN / "v41_forward_f32.safetensors")
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    module = EngramModule(config, head_primes(config)[0], dtype=torch.bfloat16)
    module.load_state_dict(state)
    offsets = module.multi_head_embedding.offsets
    return module, tensors["in.x"], tensors["plain.row_ids"] - offsets, tensors["plain.out"]


def test_the_released_forward_from_fp8_rows_is_that_of_the_same_rows_in_bfloat16():
    module, hidden, ids, expected = golden_module("fp8")
    with torch.no_grad():
        out = module.to(torch.bfloat16).eval()(hidden, ids)
        plain = golden_module("bfloat16")[0].to(torch.bfloat16)(hidden, ids)
    assert torch.equal(out, plain)
    assert_near(out, expected)
    stored = module.state_dict()
    assert stored["multi_head_embedding.embedding.weight"].dtype == torch.float8_e4m3fn
    assert module.count_parameters() == golden_module("bfloat16")[0].count_parameters()


def test_training_is_refused_unless_the_table_is_frozen():
    module, hidden, ids, _ = golden_module("fp8")
    with pytest.raises(LayoutError, match="fp8, for inference, and cannot be trained"):
        module(hidden, ids)
    with pytest.raises(LayoutError, match="engram convert|cannot be trained"):
        module.eval()(hidden, ids).sum().backward()
    module.train().multi_head_embedding.embedding.requires_grad_(False)
    module(hidden, ids).sum().backward()
    assert module.wkv.weight.grad.abs().max() > 0


@DTYPES
def test_tables_that_stay_on_the_host_have_no_cache(table_dtype):
    config = EngramConfig(
        hidden_size=8,
        engram_vocab_size=544,
        k=1,
        n_embed_per_ngram=16,
        n_head_per_ngram=2,
        layer_ids=[0],
        pad_id=2,
        table_dtype=table_dtype,
        use_offload=True,
        offload_cache_lines=4,
    )
    with pytest.raises(LayoutError, match="offload_cache_lines must be 0"):
        EngramModule(config, head_primes(config)[0])

"""Conversions to GGUF and back: equal bytes where rows are interleaved, equal rows elsewhere."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engram.checkpoints.convert.convert import convert
from engram.checkpoints.convert.gguf_repair import repair_gguf
from engram.errors import (
    LayoutError,
)
from engram.storage.gguf_headers import read_gguf
from support.converted import equal, memory_of, run
from support.gguf_conversions import demand_right, layers_of, table_losses
from support.gguf_memories import write_memory
from support.layouts import random_memory
from support.paths import BPE


def _weights(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def test_released_weights_come_back_byte_for_byte_from_both_forms_of_rows(released, tmp_path):
    run(released, tmp_path / "plain", "deepseek_v41", tokenizer=BPE)
    made = run(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    assert made.dtypes == ("fp8", "e4m3_e8m0_32_row264")
    run(tmp_path / "d.gguf", tmp_path / "two.gguf", "gguf_tarruda")
    back = run(tmp_path / "two.gguf", tmp_path / "back", "deepseek_v41")
    for part in ("table", "dense"):
        assert table_losses(made, part) == table_losses(back, part) == [0, 0]
    assert _weights(tmp_path / "back") == _weights(tmp_path / "plain")
    again = run(tmp_path / "two.gguf", tmp_path / "again.gguf", "gguf_ds4")
    assert table_losses(again) == table_losses(again, "dense") == [0, 0]
    for name in ("d.gguf", "two.gguf", "again.gguf"):
        demand_right(tmp_path / name, tokenizer=BPE)
        assert layers_of(tmp_path / name) == layers_of(released)
    one, other = (read_gguf(tmp_path / name).tensors for name in ("d.gguf", "again.gguf"))
    assert {name: it.dims for name, it in one.items()} == {
        name: it.dims for name, it in other.items()
    }
    stored = [(tmp_path / name).read_bytes() for name in ("d.gguf", "again.gguf")]
    for name in one:
        places = zip(stored, (one[name], other[name]), strict=True)
        assert len({content[it.start : it.stop] for content, it in places}) == 1, name
    assert list(one)[-2:] == [f"blk.{layer}.engram_embd.weight" for layer in (2, 1)]
    assert all(tensor.start % 16384 == 0 for tensor in one.values())


def test_interleaved_rows_are_codes_and_then_their_scales(released, tmp_path):
    run(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "d.gguf").tensors}
    found = {
        name: value
        for file in released.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    for layer in (1, 2):
        parts = [found[f"layers.{layer}.engram.embed.{name}"] for name in ("weight", "scale")]
        codes, scales = (part.view(torch.uint8).numpy() for part in parts)
        rows = stored[f"blk.{layer}.engram_embd.weight"].view(np.uint8)
        np.testing.assert_array_equal(rows, np.concatenate([codes, scales], axis=1))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "q8_0"])
def test_our_own_memory_is_looked_up_alike_in_family_l(attached, dtype, tmp_path):
    made = run(attached, tmp_path / "l.gguf", "gguf_llama", dtype=dtype)
    demand_right(tmp_path / "l.gguf", tokenizer=BPE, engine="llama.cpp")
    ours, theirs = layers_of(attached), layers_of(tmp_path / "l.gguf")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "l.gguf").tensors}
    table = stored["blk.1.engram_embd.weight"]
    assert table.tensor_type.name == {"q8_0": "Q8_0", "bfloat16": "BF16", "float16": "F16"}.get(
        dtype, "F32"
    )
    if dtype in (None, "float32"):
        assert theirs == ours
        assert table_losses(made) == [0, 0]
        return
    values = memory_of(attached)["model.layers.1.engram.multi_head_embedding.embedding.weight"]
    decoded = gguf.quants.dequantize(table.data, table.tensor_type)
    np.testing.assert_array_equal(
        gguf.quants.quantize(values.numpy(), table.tensor_type), table.data
    )
    error = np.abs(decoded - values.numpy()).max()
    assert made.losses()[1]["table"].max_error == pytest.approx(error, rel=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        norms = [[head["row_norm"] for head in layer.pop("ngrams", [])] for layer in (one, other)]
        assert norms[0] == pytest.approx(norms[1], rel=0.02)


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_a_pad_of_our_own_stays_through_verify_and_repair(base, pad, tmp_path):
    changes = {"n_embed_per_ngram": 512, "n_head_per_ngram": 2, "table_dtype": None}
    random_memory(base, tmp_path / "attached", "deepseek_v41", pad_id=pad, **changes)
    run(tmp_path / "attached", tmp_path / "l.gguf", "gguf_llama")
    demand_right(tmp_path / "l.gguf", tokenizer=BPE, engine="llama.cpp")
    assert not repair_gguf(tmp_path / "l.gguf", tmp_path / "mended.gguf").mended


def test_a_memory_of_qwen_and_back(folders, base, tmp_path):
    with pytest.raises(LayoutError, match="has one table"):
        convert(folders["qwen_ple"], tmp_path / "q.gguf", "gguf_qwen4exp")
    random_memory(base, tmp_path / "attached", "qwen_ple", layer_ids=[1])
    run(tmp_path / "attached", tmp_path / "published", "qwen_ple")
    made = run(tmp_path / "published", tmp_path / "q.gguf", "gguf_qwen4exp")
    assert table_losses(made) == [0]
    demand_right(tmp_path / "q.gguf")
    assert layers_of(tmp_path / "q.gguf") == layers_of(tmp_path / "published")
    back = run(tmp_path / "q.gguf", tmp_path / "back", "qwen_ple", dtype="float32")
    # Norms are centred at one in GGUF, which rounds them.
    assert 0 < table_losses(made, "dense")[0] < 1e-6
    assert table_losses(back) == [0]


def test_onto_a_base_again(attached, base, tmp_path):
    run(attached, tmp_path / "l.gguf", "gguf_llama", dtype="float32")
    run(tmp_path / "l.gguf", tmp_path / "back", base=base)
    equal(memory_of(tmp_path / "back"), memory_of(attached))


def test_other_tensors_and_keys_of_a_model_stay(released, tmp_path):
    """The base has a memory of its own in another dialect, which is replaced."""
    values = {"deepseek41.block_count": ("uint32", 7), "tokenizer.ggml.model": ("string", "gpt2")}
    write_memory(
        tmp_path / "base.gguf",
        "gguf_tarruda",
        values=values,
        small=True,
        changed={"rows": [302, 302]},
    )
    source = read_gguf(tmp_path / "base.gguf")
    with (tmp_path / "base.gguf").open("r+b") as file:
        file.seek(source.tensors["token_embd.weight"].start)
        file.write(bytes(range(1, 256)) * 50)
    run(released, tmp_path / "d.gguf", "gguf_ds4", base=tmp_path / "base.gguf", tokenizer=BPE)
    made = read_gguf(tmp_path / "d.gguf")
    assert made.values["deepseek41.block_count"].scalar() == 7
    assert not [key for key in made.values if "embedding_counts" in key]
    assert not [name for name in made.tensors if "embd_scale" in name]
    one, other = (
        (tmp_path / name).read_bytes()[tensor.start : tensor.stop]
        for name, tensor in (
            ("base.gguf", source.tensors["token_embd.weight"]),
            ("d.gguf", made.tensors["token_embd.weight"]),
        )
    )
    assert one == other != bytes(len(one))


def test_scales_of_a_memory_that_is_replaced_go_with_it(attached, released, tmp_path):
    convert(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    convert(attached, tmp_path / "x.gguf", "gguf_llama", base=tmp_path / "d.gguf")
    keys = [read_gguf(tmp_path / name).values for name in ("d.gguf", "x.gguf")]
    assert [any(key.startswith("engram_toolkit") for key in it) for it in keys] == [True, False]

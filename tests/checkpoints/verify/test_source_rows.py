"""`verify --source`: sampled rows of a GGUF file against the checkpoint that it was made from."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as torch_load
from safetensors.torch import save_file

import engram
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import InputError, MissingFileError, UsageError
from engram.storage.gguf_headers import read_gguf
from support import packed_rows, sparse_folder, tiny
from support.cli import run
from support.gguf_files import Array, Tensor, write
from support.gguf_memories import addresses_of, facts_of, fill, write_filled, write_memory
from support.layouts import random_memory
from support.qwen import qwen_release

NAME = "layers.{}.engram.embed.weight"
PLE = "model.language_model.layers.1.ple.ple_embedding.ngram_embedding.shard_{}.weight"


def save(path, tensors):
    """Write a safetensors file of raw bytes: dtype, shape and content by name."""
    header, end = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        offsets = [end, end := end + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    contents = (content for _, _, content in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(contents))
    return path


def fp8_file(path, tables):
    """Write fp8 tables and their scales by layer, named as DeepSeek-V4.1's."""
    tensors = {}
    for layer, (codes, scales) in tables.items():
        name = NAME.format(layer)
        tensors[name] = ("F8_E4M3", codes.shape, codes.tobytes())
        scale = name.replace("weight", "scale")
        tensors[scale] = ("F8_E8M0", scales.shape, scales.tobytes())
    return save(path, tensors)


def as_bfloat16(values):
    """The upper halves of float32, and their values."""
    upper = values.astype("<f4").view("<u4") >> 16
    return upper.astype("<u2"), (upper << 16).view("<f4")


def checks(path, source):
    found = engram.verify(path, source=source)
    return {check.name: check for check in found if check.name.startswith("source")}


def codes(path, source):
    return [fault["code"] for it in checks(path, source).values() for fault in it.faults]


@pytest.mark.parametrize("name", ["gguf_ds4", "gguf_jig"])
def test_interleaved_rows_are_compared_byte_for_byte(name, tmp_path):
    path = tmp_path / "model.gguf"
    _, tables = write_filled(path, name)
    pairs = {
        layer: own if len(own) == 2 else (own[0][:, :256], own[0][:, 256:])
        for layer, own in tables.items()
    }
    source = fp8_file(tmp_path / "model-00001-of-00001.safetensors", pairs)
    found = checks(path, source)
    assert [*found] == [f"source layer {layer}" for layer in tables]
    assert all(it.ok and "equal byte for byte" in it.detail for it in found.values())
    layer, (values, scales) = next(reversed(pairs.items()))
    scales[-1, 3] ^= 1
    fp8_file(source, {**pairs, layer: (values, scales)})
    (fault,) = checks(path, source)[f"source layer {layer}"].faults
    assert fault["code"] == "SOURCE_BYTES"
    assert fault["message"].endswith(f"row {len(scales) - 1:,}")
    answer = run("verify", path, "--source", source, "--json")
    assert answer[0] == 5
    assert "SOURCE_BYTES" in answer[1]


def test_two_dialects_of_the_same_rows(tmp_path):
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    _, tables = write_filled(one, "gguf_ds4")
    write_filled(other, "gguf_jig")
    for table in open_gguf(other).tables:
        rows = tables[table.layer_id][0]
        parts = {table.values.name: rows[:, :256], table.scales.name: rows[:, 256:]}
        fill(other, parts)
    assert all(it.ok for it in checks(one, other).values())
    assert all(it.ok for it in checks(other, one).values())
    assert codes(one, one) == []
    write_filled(other, "gguf_jig")
    assert codes(one, other) == ["SOURCE_BYTES", "SOURCE_BYTES"]


def test_a_row_beyond_4_gib_of_a_true_table(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    source = sparse_folder.v41(tmp_path / "released")
    found = checks(path, source)
    assert [it.ok for it in found.values()] == [True, True]
    row = 2**32 // 264
    with path.open("r+b") as file:
        file.seek(read_gguf(path).tensors["blk.14.engram_embd.weight"].start + row * 264 + 263)
        file.write(b"\1")
    assert codes(path, source) == ["SOURCE_BYTES"]
    assert f"row {row:,}" in checks(path, source)["source layer 14"].detail
    shard = source / "model-00048-of-00048.safetensors"
    found = checks(path, shard)
    assert [it.ok for it in found.values()] == [None, False], "one of two tables is in this file"
    (source / "model-00047-of-00048.safetensors").unlink()
    assert [it.ok for it in checks(path, source).values()] == [None, False]


QUANTISED = ["Q8_0", "Q5_0", "Q4_0", "MXFP4", "F16", "BF16"]


@pytest.fixture(scope="module")
def ple(tmp_path_factory):
    """A table of Qwen's in bfloat16, in three pieces, and its values."""
    folder = tmp_path_factory.mktemp("ple")
    rows = addresses_of("gguf_qwen4exp").layers[0].stored_rows
    stored, values = as_bfloat16(np.random.default_rng(1).normal(size=(rows, 160)))
    pieces = np.array_split(stored, 3)
    tensors = {PLE.format(i): ("BF16", it.shape, it.tobytes()) for i, it in enumerate(pieces)}
    return save(folder / "model.safetensors", tensors), values


def write_ple(path, kind, values):
    """Write the memory of a small Qwen in GGUF, its table of a type of ggml's."""
    addresses = addresses_of("gguf_qwen4exp")
    vocab = {"tokenizer.ggml.tokens": Array("string", ["t"] * addresses.raw_vocab_size)}
    facts = facts_of(addresses, addresses.fill)
    options = {"changed": facts, "values": vocab, "small": True, "row_type": (kind, 160)}
    write_memory(path, "gguf_qwen4exp", **options)
    (table,) = open_gguf(path).tables
    content = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType[kind])
    fill(path, {table.values.name: content})
    return table, content


@pytest.mark.parametrize("kind", QUANTISED)
def test_values_may_be_off_by_what_their_encoding_rounds(kind, ple, tmp_path):
    source, values = ple
    path = tmp_path / "model.gguf"
    table, content = write_ple(path, kind, values)
    (check,) = checks(path, source).values()
    assert check.ok, check
    told = "equal byte for byte" if kind == "BF16" else f"where rounding to {kind} gives"
    assert told in check.detail
    code = "SOURCE_BYTES" if kind == "BF16" else "SOURCE_VALUES"
    for wrong in (np.roll(content, 1, axis=0), np.zeros_like(content)):
        fill(path, {table.values.name: wrong})
        assert codes(path, source) == [code]
    changed = content.copy()
    changed[-1] = content[0]
    fill(path, {table.values.name: changed})
    (fault,) = checks(path, source)["source layer 1"].faults
    assert fault["message"].endswith(f"row {len(content) - 1:,}"), "one wrong row is enough"


def test_a_coarser_encoding_than_it_was_made_from(ple, tmp_path):
    _, values = ple
    fine, coarse = tmp_path / "fine.gguf", tmp_path / "coarse.gguf"
    write_ple(fine, "Q8_0", values)
    write_ple(coarse, "Q4_0", values)
    assert codes(coarse, fine) == []
    assert codes(fine, coarse) == ["SOURCE_VALUES"]


def random(seed):
    return torch.Generator().manual_seed(seed)


PACKED = {
    "nvfp4": lambda rows, i: packed_rows.byte_scaled(rows, 160, 16, "e4m3", random(i), 0.37),
    "fp4_e8m0_32": lambda rows, i: packed_rows.byte_scaled(rows, 160, 32, "e8m0", random(i)),
    "mlx_affine_b4_g32_float16": lambda rows, i: packed_rows.mlx_affine(
        rows, 160, 4, 32, torch.float16, random(i)
    ),
    "mlx nvfp4": lambda rows, i: packed_rows.as_mlx(
        packed_rows.byte_scaled(rows, 160, 16, "e4m3", random(i))
    ),
}


@pytest.fixture(scope="module")
def qwen_config(tmp_path_factory):
    return (qwen_release(tmp_path_factory.mktemp("qwen")) / "config.json").read_text()


def write_packed(folder, kind, config=None):
    """Write a table of Qwen's in packed rows, in three pieces; return what it means."""
    folder.mkdir()
    rows = addresses_of("gguf_qwen4exp").layers[0].stored_rows
    sizes = [len(it) for it in np.array_split(np.arange(rows), 3)]
    pieces = [PACKED[kind](size, i) for i, size in enumerate(sizes)]
    table = PLE.removesuffix("weight")
    tensors = {
        table.format(i) + end: value
        for i, piece in enumerate(pieces)
        for end, value in piece.tensors.items()
    }
    if kind == "nvfp4":
        tensors[table.partition("shard")[0] + "weight_scale_2"] = torch.tensor(0.37)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config)
    return torch.cat([piece.values for piece in pieces]).numpy()


@pytest.mark.parametrize("kind", PACKED)
def test_packed_rows_are_a_source(kind, qwen_config, tmp_path):
    source, path = tmp_path / "released", tmp_path / "model.gguf"
    values = write_packed(source, kind, qwen_config)
    table, content = write_ple(path, "Q8_0", values)
    for place in (source, source / "model.safetensors"):
        (check,) = checks(path, place).values()
        assert check.ok, check
        assert "where rounding to Q8_0 gives" in check.detail
    changed = content.copy()
    changed[-1] = content[0]
    fill(path, {table.values.name: changed})
    (fault,) = checks(path, source)["source layer 1"].faults
    assert fault["code"] == "SOURCE_VALUES"
    assert fault["message"].endswith(f"row {len(content) - 1:,}")


def test_a_source_that_cannot_be_read_is_a_check_that_was_not_done(qwen_config, tmp_path):
    source, path = tmp_path / "released", tmp_path / "model.gguf"
    values = write_packed(source, "nvfp4", qwen_config)
    write_ple(path, "Q8_0", values)
    others = [it for it in engram.verify(path) if not it.name.startswith("source")]

    def told(place):
        found = engram.verify(path, source=place)
        *rest, check = found
        assert [it.name for it in rest] == [it.name for it in others]
        assert check.ok is None
        assert found.ok
        return check

    file = source / "model.safetensors"
    stored = torch_load(file)
    lost = {name: it for name, it in stored.items() if not name.endswith("weight_scale_2")}
    save_file(lost, file)
    check = told(source)
    assert check.name == "source layer 1"
    assert "has weight_scale_2 missing" in check.detail
    assert "download the checkpoint again" in check.detail
    save_file(stored, file)
    (source / "config.json").unlink()
    assert told(source).name == "source layer 1", "how many values a row has is not known"
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(path.read_bytes()[:1000])
    check = told(torn)
    assert check.name == "source"
    assert "torn.gguf is damaged" in check.detail


def test_a_memory_of_ours_is_a_source(tmp_path, tmp_path_factory):
    addresses = addresses_of("gguf_llama")
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    sizes = {"n_embed_per_ngram": 512, "n_head_per_ngram": 2}
    folder = random_memory(base, tmp_path / "attached", "deepseek_v41", **sizes)
    path = tmp_path / "model.gguf"
    facts = facts_of(addresses, addresses.fill)
    write_memory(path, "gguf_llama", changed=facts, small=True)
    (file,) = folder.glob("engram-*.safetensors")
    stored = load_file(file)
    for table in open_gguf(path).tables:
        name = f".{table.layer_id}.engram.multi_head_embedding.embedding.weight"
        (values,) = (it for key, it in stored.items() if key.endswith(name))
        content = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        fill(path, {table.values.name: content})
    for source in (folder, file):
        found = checks(path, source)
        assert [it.ok for it in found.values()] == [True] * len(addresses.layers), found
    assert codes(path, path) == []


def test_tables_of_other_sizes_are_told(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    layer = sparse_folder.v41_layer(14, 384006168)
    shards = {"model-00048-of-00048.safetensors": layer}
    source = sparse_folder.v41(tmp_path / "other", **shards)
    assert codes(path, source) == ["SOURCE_ROWS"]
    released = qwen_release(tmp_path / "qwen")
    assert [it.ok for it in checks(path, released).values()] == [False, None], "it has layer 1"
    ple = write_memory(tmp_path / "ple.gguf", "gguf_qwen4exp")
    (check,) = checks(ple, released).values()
    assert check.ok


def test_rows_that_are_not_decoded_are_not_judged(tmp_path):
    path, source = tmp_path / "model.gguf", tmp_path / "source.gguf"
    write_filled(source, "gguf_ds4")
    write_filled(path, "gguf_ds4", encoding="conversion_underway")
    assert all(it.ok is None for it in checks(path, source).values())


def test_what_is_no_source_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    with pytest.raises(MissingFileError, match="does not exist"):
        engram.verify(path, source=tmp_path / "none")
    plain = save(tmp_path / "plain.safetensors", {"embed.weight": ("F32", (1, 1), bytes(4))})
    with pytest.raises(InputError, match="holds no table"):
        engram.verify(path, source=plain)
    released = sparse_folder.v41(tmp_path / "released")
    with pytest.raises(UsageError, match="is not a GGUF file: leave --source"):
        engram.verify(released, source=path)
    shown = run("verify", released, "--source", path, "--target", "ds4", "--json").error(2)
    assert "leave --target (in Python, engine) and --source" in shown["message"]
    with pytest.raises(MissingFileError, match="hub failed"):
        engram.verify("some/model", source=path)


def test_tables_without_rows(tmp_path):
    values = {"general.architecture": ("string", "qwen4exp")}
    table = {"per_layer_token_embd.weight": Tensor((160, 0), 8)}
    path = write(tmp_path / "none.gguf", values, table)
    assert [it.ok for it in checks(path, path).values()] == [True]

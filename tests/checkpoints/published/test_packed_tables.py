"""Tables of releases whose rows are packed: NVFP4, FP4, MLX's ways, EXL3's trellis; and faults."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.read.lookup import look_up
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import CorruptFileError, LayoutError
from engram.tensor_names import TABLE
from support import packed_rows, tiny
from support.checked import failed, verdicts
from support.cli import run

PLE = "model.language_model.layers.1.ple."
EMBEDDING = PLE + "ple_embedding.ngram_embedding."
MLX_PLE = "language_model.model.layers.1.ple."
WIDTH, TEXT = 64, "the tables are read"


def published_memory(root, layout, **settings):
    base = tiny.base_model("llama", root / "base")
    config = tiny.memory_config(
        **{"layout": layout, "layer_ids": [1], "n_head_per_ngram": 1, **settings}
    )
    attach.attach(base, config, root / "attached")
    convert(root / "attached", root / "published", layout)
    (file,) = (root / "published").glob("*.safetensors")
    texts = {path.name: path.read_text() for path in (root / "published").glob("*.json")}
    return load_file(file), {"config.json": texts["config.json"]}, base


@pytest.fixture(scope="module")
def qwen_ple(tmp_path_factory):
    """Tensors, files and base of a tiny memory of Qwen's, with rows of 64 columns."""
    return published_memory(
        tmp_path_factory.mktemp("ple"), "qwen_ple", engram_table_size=[302, 302],
        max_ngram_size=3, n_embed_per_ngram=WIDTH, eos_id=1, seed=1234, pad_id=None, row_multiple=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def v41(tmp_path_factory):
    """The same of V4.1."""
    return published_memory(
        tmp_path_factory.mktemp("v41"), "deepseek_v41", engram_table_size=[302] * 3,
        n_embed_per_ngram=WIDTH, seed=0, kernel_size=0,
    )  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def folder(memory, tensors, config=None):
        made = tmp_path / "made"
        made.mkdir(exist_ok=True)
        for name, text in memory[1].items():
            (made / name).write_text(text)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (made / name).write_bytes((memory[2] / name).read_bytes())
        if config:
            stated = json.loads((made / "config.json").read_text())
            (made / "config.json").write_text(json.dumps({**stated, **config}))
        save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
        return made

    return folder


def shards(memory):
    """The pieces of Qwen's table, in order, and all other tensors."""
    tables = [name for name in memory[0] if name.startswith(EMBEDDING + "shard_")]
    tables.sort(key=lambda name: int(name.split("shard_")[1].split(".")[0]))
    return tables, {name: it for name, it in memory[0].items() if name not in tables}


def packed(memory, make, spelling="shard_{}"):
    """Every piece packed; tensors under their names, and what the whole table means."""
    tables, tensors = shards(memory)
    pieces = [make(len(memory[0][name]), i) for i, name in enumerate(tables)]
    for i, piece in enumerate(pieces):
        start = EMBEDDING + spelling.format(i) + "."
        tensors |= {start + end: value for end, value in piece.tensors.items()}
    return tensors, torch.cat([piece.values for piece in pieces])


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def nvfp4(factor=1.0):
    return lambda rows, i: packed_rows.byte_scaled(rows, WIDTH, 16, "e4m3", random(i), factor)


def as_mlx(group, kind):
    return lambda rows, i: packed_rows.as_mlx(
        packed_rows.byte_scaled(rows, WIDTH, group, kind, random(i))
    )


def affine(bits, group=32, dtype=torch.bfloat16):
    return lambda rows, i: packed_rows.mlx_affine(rows, WIDTH, bits, group, dtype, random(i))


def as_mlx_names(tensors):
    """What mlx-vlm makes of names and of the convolution's shape."""
    renamed = {
        name.replace(".shard_", ".shards.").replace(PLE, MLX_PLE): value
        for name, value in tensors.items()
    }
    conv = MLX_PLE + "conv1d.weight"
    return {**renamed, conv: renamed[conv].movedim(2, 1).contiguous()}


def table_of(folder):
    (layer,) = open_checkpoint(folder).layers.values()
    return layer[TABLE]


def check_reading(folder, expected, encoding, base, tmp_path):
    """Rows, report, verdicts, a text's rows, and conversions."""
    table = table_of(folder)
    rows = np.arange(table.rows)
    assert table.dtype == encoding
    assert np.allclose(table.read_rows(rows), expected, rtol=1e-6, atol=0)
    assert torch.allclose(table.read(30, 77), expected[30:107], rtol=1e-6, atol=0)
    assert np.array_equal(table.read_rows(rows[:0]).shape, (0, WIDTH))
    part = table.part(40, (20, WIDTH))
    assert np.array_equal(part.read_rows(rows[:20]), table.read_rows(rows[40:60]))
    assert failed(folder) == {}
    assert verdicts(folder)["scales"].ok is True

    (part,) = [it for it in inspect_checkpoint(folder).weights if it.group == "table"]
    stored = [info for name, info in open_checkpoint(folder).tensors.items() if "ngram_emb" in name]
    assert (part.params, part.rows) == (expected.numel(), len(expected))
    assert part.dtype == encoding
    assert part.size_bytes == sum(i.stop - i.start for i in stored if i.dtype != "I64")
    found = look_up(folder, TEXT)
    assert found.table_dtype == encoding
    (layer,) = found.layers
    norms = torch.linalg.vector_norm(expected.double(), dim=1).numpy()
    assert np.allclose(layer.norms, norms[layer.rows], rtol=1e-6)
    convert(folder, tmp_path / "own", base=base)
    assert np.allclose(table_of(tmp_path / "own").read_rows(rows), expected, rtol=1e-6, atol=0)


def test_nvfp4_with_one_scale_for_all(qwen_ple, write, tmp_path):
    tensors, expected = packed(qwen_ple, nvfp4(0.37))
    tensors[EMBEDDING + "weight_scale_2"] = torch.tensor(0.37)
    check_reading(write(qwen_ple, tensors), expected, "nvfp4", qwen_ple[2], tmp_path)


def test_nvfp4_with_a_scale_for_each_piece(qwen_ple, write, tmp_path):
    factors = [0.25, 1.5, 3.0, 0.1]
    tensors, expected = packed(qwen_ple, lambda rows, i: nvfp4(factors[i])(rows, i))
    for i, factor in enumerate(factors):
        tensors[f"{EMBEDDING}shard_{i}.weight_scale_2"] = torch.tensor([factor])
    check_reading(write(qwen_ple, tensors), expected, "nvfp4", qwen_ple[2], tmp_path)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_affine_rows_of_mlx(qwen_ple, write, tmp_path, bits):
    tensors, expected = packed(qwen_ple, affine(bits))
    made = write(qwen_ple, as_mlx_names(tensors))
    encoding = f"mlx_affine_b{bits}_g32_bfloat16"
    check_reading(made, expected, encoding, qwen_ple[2], tmp_path)


@pytest.mark.parametrize(
    ("group", "kind", "encoding"), [(32, "e8m0", "fp4_e8m0_32"), (16, "e4m3", "nvfp4")]
)
def test_byte_scaled_rows_of_mlx(qwen_ple, write, tmp_path, group, kind, encoding):
    tensors, expected = packed(qwen_ple, as_mlx(group, kind))
    made = write(qwen_ple, as_mlx_names(tensors))
    check_reading(made, expected, encoding, qwen_ple[2], tmp_path)


def test_projections_that_mlx_packed_too(qwen_ple, write, tmp_path):
    tensors, _ = packed(qwen_ple, affine(4, 64, torch.float16))
    name = PLE + "key_proj.weight"
    rows, columns = tensors.pop(name).shape
    key = packed_rows.mlx_affine(rows, columns, 8, 64, torch.float16, random(9))
    tensors |= {PLE + "key_proj." + end: value for end, value in key.tensors.items()}
    made = write(qwen_ple, as_mlx_names(tensors))
    assert failed(made) == {}
    (layer,) = open_checkpoint(made).layers.values()
    assert layer["key_proj.weight"].dtype == "mlx_affine_b8_g64_float16"
    convert(made, tmp_path / "own", base=qwen_ple[2], dtype="int8")
    own = open_checkpoint(tmp_path / "own").layers[1]["key_proj.weight"]
    assert own.dtype == "bfloat16"
    assert torch.equal(own.read(0, rows), key.values.bfloat16())


def test_fp4_tables_of_v41(v41, write, tmp_path):
    name = next(name for name in v41[0] if name.endswith("embed.weight"))
    rows = len(v41[0][name])
    made = packed_rows.byte_scaled(rows, WIDTH, 32, "e8m0", random(), names=("weight", "scale"))
    others = {it: value for it, value in v41[0].items() if it != name}
    start = name.removesuffix("weight")
    folder = write(v41, others | {start + end: value for end, value in made.tensors.items()})
    assert failed(folder) == {}
    table = table_of(folder)
    assert table.dtype == "fp4_e8m0_32"
    assert np.allclose(table.read_rows(np.arange(rows)), made.values, rtol=1e-6, atol=0)
    assert look_up(folder, TEXT).layers[0].norms.max() > 0
    with pytest.raises(LayoutError, match="no tensors for int8"):
        convert(folder, tmp_path / "int8", "deepseek_v41", dtype="int8")
    convert(folder, tmp_path / "fp8", "deepseek_v41", dtype="fp8")
    again = table_of(tmp_path / "fp8").read_rows(np.arange(rows))
    assert np.allclose(again, made.values, rtol=1e-6, atol=0)  # e2m1 times e8m0 fits fp8


def test_golden_vectors_of_packed_rows(qwen_ple, write, tmp_path):
    tensors, expected = packed(qwen_ple, affine(4))
    made = write(qwen_ple, as_mlx_names(tensors))
    golden = engram.export_golden(made, tmp_path / "golden")
    (file,) = (tmp_path / "golden").glob("*.json")
    rows = json.loads(file.read_text())["row_values"]
    assert golden is not None
    for row in rows:
        values = np.array(row["float32_bits"], dtype=np.uint32).view(np.float32)
        assert np.array_equal(values, expected[row["row"]].numpy())
        assert row["dtype"] == "mlx_affine_b4_g32_bfloat16"
        assert len(bytes.fromhex(row["stored_hex"])) == WIDTH // 2 + 2 * 2 * WIDTH // 32


LOST = {
    "no scale of all": lambda t: t.pop(EMBEDDING + "weight_scale_2"),
    "two scales of all": lambda t: t.update(
        {EMBEDDING + "shard_1.weight_scale_2": torch.tensor(2.0)}
    ),
    "a scale of all in another dtype": lambda t: t.update(
        {EMBEDDING + "weight_scale_2": torch.tensor(2.0).bfloat16()}
    ),
    "no block scales": lambda t: [t.pop(f"{EMBEDDING}shard_{i}.weight_scale") for i in range(4)],
    "block scales of one piece": lambda t: t.pop(EMBEDDING + "shard_2.weight_scale"),
    "block scales of fewer rows": lambda t: t.update(
        {
            EMBEDDING + "shard_2.weight_scale": t[EMBEDDING + "shard_2.weight_scale"][:-1].clone()
        }
    ),
    "biases": lambda t: t.update(
        {EMBEDDING + "shard_2.biases": torch.zeros(len(t[EMBEDDING + "shard_2.weight"]), 4)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", LOST)
def test_faults_of_nvfp4_are_named(qwen_ple, write, fault):
    tensors, _ = packed(qwen_ple, nvfp4())
    tensors[EMBEDDING + "weight_scale_2"] = torch.tensor(1.0)
    LOST[fault](tensors)
    made = write(qwen_ple, tensors)
    assert list(failed(made)) == ["scales"]
    assert run("verify", made, "--json").json(5)["ok"] is False
    with pytest.raises(LayoutError):
        look_up(made, TEXT)
    assert inspect_checkpoint(made).weights[0].dtype == "fp4"


def test_packings_that_fit_no_row_are_named(qwen_ple, write):
    tensors, _ = packed(qwen_ple, affine(4))
    for name in [name for name in tensors if name.startswith(EMBEDDING) and "weight" in name]:
        tensors[name] = torch.cat([tensors[name]] * 2, dim=1)[:, :9].contiguous()
    made = write(qwen_ple, as_mlx_names(tensors))
    assert "do not pack 64 values" in failed(made)["tensors"]
    run("lookup", made, TEXT).ended(3)


def test_a_convolution_as_mlx_has_it_is_wrong_under_other_names(qwen_ple, write):
    tensors = dict(qwen_ple[0])
    tensors[PLE + "conv1d.weight"] = tensors[PLE + "conv1d.weight"].movedim(2, 1).contiguous()
    assert "conv1d" in failed(write(qwen_ple, tensors))["tensors"]


def exl3(memory, bits, joined):
    """The table as exllamav3 converts it, with its constants beside it."""
    tables, others = shards(memory)
    words = 1 + WIDTH * bits // 16
    pieces = [torch.ones(len(memory[0][name]), words, dtype=torch.int16) for name in tables]
    named = {f"{EMBEDDING}shard_{i}.trellis": piece for i, piece in enumerate(pieces)}
    if joined:
        named = {EMBEDDING + "trellis": torch.cat(pieces)}
    start = PLE + "ple_embedding."
    for old, new in (
        ("layer_multipliers", "layer_multipliers"),
        ("ngram_heads_vocab_sizes", "head_vocab_sizes"),
        ("ngram_heads_offsets", "head_offsets"),
    ):
        named[EMBEDDING + new] = others.pop(start + old)
    named[EMBEDDING + "head_bias"] = torch.zeros(2, WIDTH, dtype=torch.float16)
    return named, others


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 6])
def test_the_trellis_of_exl3_is_counted_and_not_decoded(qwen_ple, write, bits, joined):
    table, others = exl3(qwen_ple, bits, joined)
    made = write(qwen_ple, table | others, {"quantization_config": {"quant_method": "exl3"}})
    checks = verdicts(made)
    assert failed(made) == {}
    assert checks["constants"].ok is True
    assert "counted, not decoded" in checks["scales"].detail
    (part,) = [it for it in inspect_checkpoint(made).weights if it.group == "table"]
    values = sum(len(qwen_ple[0][name]) for name in shards(qwen_ple)[0]) * WIDTH
    assert (part.params, part.dtype) == (values, f"exl3_b{bits}")
    rows = values // WIDTH
    assert part.size_bytes == rows * 2 * (1 + WIDTH * bits // 16) + 2 * WIDTH * 2
    report = run("report", made, "--json").json()
    assert report["layers"][0]["rows"] == rows
    refused = run("lookup", made, TEXT, "--json").error(3)
    assert f"EXL3's trellis (exl3_b{bits})" in refused["message"]
    run("convert", made, "-o", made.parent / "out", "--base", qwen_ple[2]).ended(3)
    assert not (made.parent / "out").exists()


def test_a_constant_of_exl3_that_is_off_is_found(qwen_ple, write):
    table, others = exl3(qwen_ple, 4, joined=True)
    table[EMBEDDING + "layer_multipliers"] = table[EMBEDDING + "layer_multipliers"] + 2
    assert "layer_multipliers[0]" in failed(write(qwen_ple, table | others))["constants"]


def test_the_trellis_in_a_file_that_no_index_names(qwen_ple, write):
    table, others = exl3(qwen_ple, 4, joined=True)
    made = write(qwen_ple, others, {"quantization_config": {"quant_method": "exl3"}})
    (made / "model.safetensors").rename(made / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(others, "model-00001-of-00001.safetensors")
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "is missing" in failed(made)["tensors"]
    save_file(table, made / "ngram_embedding.safetensors")
    assert failed(made) == {}
    assert inspect_checkpoint(made).weights[0].dtype == "exl3_b4"


def omlx(memory, write, tamper=None):
    """A conversion by omlx: tables in files of their own, named by the config alone."""
    name = next(name for name in memory[0] if name.endswith("embed.weight"))
    place = name.removesuffix(".weight")
    rows = len(memory[0][name])
    table = packed_rows.mlx_affine(rows, WIDTH, 3, 32, torch.float16, random(1))
    others = {"language_model." + it: v for it, v in memory[0].items() if it != name}
    stated = {
        f"{part}_{what}": value
        for part, end in (("weight", "weight"), ("scale", "scales"), ("bias", "biases"))
        for what, value in (("key", f"{place}.{end}"), ("file", "engram/tables.safetensors"))
    }
    del stated["bias_file"]
    stated |= tamper or {}
    tables = {"language_model." + place: {**stated, "bits": 3, "group_size": 32}}
    block = {"version": 1, "quantized_modules": {}, "engram_tables": tables}
    made = write(memory, others, {"omlx_deepseek_v41": block})
    (made / "engram").mkdir()
    tensors = {f"{place}.{end}": value for end, value in table.tensors.items()}
    unrelated = {"layers.0.attn.wq.weight": torch.zeros(2, 2)}
    save_file(tensors | unrelated, made / "engram" / "tables.safetensors")
    return made, table


def test_tables_that_omlx_keeps_apart(v41, write):
    made, table = omlx(v41, write)
    assert failed(made) == {}
    found = table_of(made)
    assert found.dtype == "mlx_affine_b3_g32_float16"
    rows = np.arange(found.rows)
    assert np.allclose(found.read_rows(rows), table.values, rtol=1e-6, atol=0)
    assert look_up(made, TEXT).layers[0].norms.max() > 0
    assert "layers.0.attn.wq.weight" not in open_checkpoint(made).tensors


@pytest.mark.parametrize("file", ["../tables.safetensors", "/tables.safetensors", 3, None])
def test_tables_of_omlx_outside_of_the_folder_are_refused(v41, write, file):
    made, _ = omlx(v41, write, {"weight_file": file, "scale_file": None})
    with pytest.raises(CorruptFileError, match="engram_tables"):
        inspect_checkpoint(made)
    run("verify", made).ended(3)


def test_a_row_across_pieces_is_read_from_each(qwen_ple, write):
    tensors, expected = packed(qwen_ple, affine(5, 64, torch.float32))
    table = table_of(write(qwen_ple, as_mlx_names(tensors)))
    rows = [len(qwen_ple[0][name]) for name in shards(qwen_ple)[0]]
    edges = np.cumsum(rows[:-1])
    ids = np.concatenate([edges - 1, edges])
    assert np.allclose(table.read_rows(ids), expected[ids], rtol=1e-6, atol=0)
    assert math.prod(table.shape) == expected.numel()

"""Qwen's per-layer embedding as others ship it: pieces missing, one fp8 scale, MLX's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.read.lookup import look_up
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import MissingFileError
from engram.tensor_names import TABLE
from support import tiny
from support.cli import run

EMBEDDING = ".ple.ple_embedding.ngram_embedding."


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Tensors and config of a tiny memory under Qwen's published names."""
    root = tmp_path_factory.mktemp("ple")
    base = tiny.base_model("llama", root / "base")
    config = tiny.memory_config(
        layout="qwen_ple",
        engram_table_size=[302, 302],
        max_ngram_size=3,
        n_embed_per_ngram=64,
        layer_ids=[1],
        eos_id=1,
        seed=1234,
        pad_id=None,
    )
    attach.attach(base, config, root / "attached")
    convert(root / "attached", root / "published", "qwen_ple")
    (file,) = (root / "published").glob("*.safetensors")
    others = {path.name: path.read_text() for path in (root / "published").glob("*.json")}
    return load_file(file), {k: v for k, v in others.items() if "index" not in k}, base


@pytest.fixture
def folder(published, tmp_path):
    def write(tensors):
        made = tmp_path / "made"
        made.mkdir()
        for name, text in published[1].items():
            (made / name).write_text(text)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (made / name).write_bytes((published[2] / name).read_bytes())
        save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
        return made

    return write


def tables(tensors):
    return {name: value for name, value in tensors.items() if EMBEDDING in name}


def verdicts(made):
    return {check.name: check for check in verify(made, headers_only=True)}


@pytest.mark.parametrize("lost", ["shard_44.", "shard_"])
def test_missing_pieces_of_a_table_are_named(published, folder, lost):
    gone = {name for name in published[0] if lost in name}
    made = folder({name: it for name, it in published[0].items() if name not in gone})
    if len(gone) == 1:
        with pytest.raises(MissingFileError) as refused:
            inspect_checkpoint(made)
        assert refused.value.details["missing"] == sorted(gone)
        assert verdicts(made)["tensors"].ok is False
    done = run("report", made, "--json")
    assert done.code in (3, 4, 5)
    assert done.stdout == ""


SCALES = {
    "one": lambda names, _: {"weight_scale": torch.tensor(0.01)},
    "one bfloat16": lambda names, _: {"weight_scale": torch.tensor(0.01).bfloat16()},
    "one a piece": lambda names, _: {
        f"shard_{i}.weight_scale": torch.tensor(0.001 * (i + 1)) for i in range(len(names))
    },
    "one a row": lambda names, values: {
        f"shard_{i}.weight_scale": torch.rand(len(values[i]), 1) + 0.1 for i in range(len(names))
    },
}


@pytest.mark.parametrize("kind", SCALES)
def test_fp8_tables_with_float_scales_are_read_and_converted(published, folder, kind, tmp_path):
    tensors = dict(published[0])
    start = next(name for name in tensors if EMBEDDING in name).partition("shard_")[0]
    names = [f"{start}shard_{i}.weight" for i in range(len(tables(tensors)))]
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(tensors[name].shape, generator=generator) * 50 for name in names]
    codes = [value.to(torch.float8_e4m3fn) for value in values]
    scales = SCALES[kind](names, values)
    tensors |= dict(zip(names, codes, strict=True))
    tensors |= {start + name: value for name, value in scales.items()}
    factors = list(scales.values()) * (len(names) if len(scales) == 1 else 1)
    pairs = zip(codes, factors, strict=True)
    expected = torch.cat([code.float() * factor.float() for code, factor in pairs])

    made = folder(tensors)
    (table,) = [layer[TABLE] for layer in open_checkpoint(made).layers.values()]
    rows = np.arange(table.rows)
    assert np.allclose(table.read_rows(rows), expected, rtol=1e-6)
    assert torch.allclose(table.read(32, 64), expected[32:96], rtol=1e-6)
    assert look_up(made, "the tables are read").layers[0].norms.max() > 0
    assert all(check.ok is not False for check in verdicts(made).values())
    convert(made, tmp_path / "float", "attached", base=published[2])
    for dtype, error in (("float32", 1e-6), ("fp8", 2**-4)):
        out = tmp_path / dtype
        convert(made, out, base=published[2], dtype=dtype)
        (again,) = [layer[TABLE] for layer in open_checkpoint(out).layers.values()]
        assert np.allclose(again.read_rows(rows), expected, rtol=error, atol=error * 0.02)


def test_names_of_mlx_are_known(published, folder):
    def renamed(name):
        name = name.replace(".shard_", ".shards.")
        return name.replace("model.language_model.", "language_model.model.")

    made = folder({renamed(name): value for name, value in published[0].items()})
    assert any(".shards.3." in name for name in load_file(made / "model.safetensors"))
    found = inspect_checkpoint(made)
    plain = sum(value.numel() for value in tables(published[0]).values())
    assert sum(part.params for part in found.weights if part.group == "table") == plain
    assert all(check.ok is not False for check in verdicts(made).values())
    assert look_up(made, "the tables are read").layers[0].norms.max() > 0
    lost = {renamed(name): it for name, it in published[0].items() if "shard_44." not in name}
    save_file(lost, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingFileError, match=r"shards\.44\."):
        inspect_checkpoint(made)

"""Qwen, of which transformers builds a checkpoint: recognised, reported, verified, broken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from engram.addressing.addresses import Addresses
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.config.templates import load_template
from engram.sizing.weights import total_of
from support.checked import failed, verdicts
from support.cli import run
from support.qwen import qwen_release
from support.tiny import params_of

PLE = "model.layers.{}.ple.ple_embedding."

PLE = "model.layers.{}.ple.ple_embedding."


def changed(folder, to, change=None, settings=None):
    """Copy a checkpoint of one file with other tensors or settings."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **(settings or {})}))
    return to


def test_a_tiny_qwen_that_transformers_saved(qwen):
    folder, model = qwen
    checks = verdicts(folder)
    open_checks = {name for name, check in checks.items() if check.ok is None}
    assert failed(folder) == {}
    assert open_checks == {"values"}
    assert checks["constants"].ok is True
    found = inspect_checkpoint(folder)
    assert (found.kind, found.layout) == ("released", "qwen_ple")
    assert found.config.layer_ids == [1, 3]
    assert total_of(found.weights, "table")[0] == params_of(model, "ngram_embedding")
    dense = params_of(model, ".ple.") - params_of(model, "ngram_embedding")
    assert total_of(found.weights, "dense")[0] == dense
    assert total_of(found.weights, "base")[0] == params_of(model, "") - params_of(model, ".ple.")
    report = run("report", folder, "--json").json()
    tables = {i: model.model.layers[i].ple.ple_embedding for i in (1, 3)}
    assert [layer["rows"] for layer in report["layers"]] == [
        table.ngram_embedding.weight.shape[0] for table in tables.values()
    ]
    assert [layer["hash_rows"] for layer in report["layers"]] == [
        sum(table.head_vocab_sizes) for table in tables.values()
    ]
    assert report["reads"]["rows_per_token"] == 12
    assert run("verify", folder, "--json").json()["ok"] is True


def test_the_config_of_a_tiny_qwen_gives_its_constants(qwen):
    folder, model = qwen
    addresses = Addresses.from_config(inspect_checkpoint(folder).config, None)
    for layer in addresses.layers:
        buffers = model.model.layers[layer.layer_id].ple.ple_embedding
        assert list(layer.multipliers) == buffers.layer_multipliers.tolist()
        assert list(layer.offsets) == buffers.ngram_heads_offsets.tolist()


@pytest.mark.parametrize(
    "buffer", ["layer_multipliers", "ngram_heads_vocab_sizes", "ngram_heads_offsets"]
)
def test_a_buffer_that_is_off_by_one(qwen, tmp_path, buffer):
    name = PLE.format(3) + buffer

    def change(tensors):
        tensors[name][1] += 1

    folder = changed(qwen[0], tmp_path / "off", change)
    problems = failed(folder)
    assert problems.pop("constants").startswith(f"{name}[1] is ")
    # Head sizes are asked of sympy, too: what follows a prime is not one.
    assert list(problems) == (["sizes"] if buffer == "ngram_heads_vocab_sizes" else [])
    assert all("layer 3, order 2, head 1: " in detail for detail in problems.values())
    assert all("is not prime" in detail for detail in problems.values())
    run("verify", folder).ended(5)


def swap(tensors, part):
    one, other = ([n for n in tensors if n.startswith(PLE.format(i)) and part in n] for i in (1, 3))
    for left, right in zip(sorted(one), sorted(other), strict=True):
        tensors[left], tensors[right] = tensors[right], tensors[left]


def drop(name):
    return lambda tensors: tensors.pop(name)


QWEN_BROKEN = {
    "swapped tables": (lambda t: swap(t, "ngram_embedding"), {}, "tensors", "are swapped"),
    "swapped constants": (
        lambda t: swap(t, "layer_multipliers"), {},
        "constants", "holds the values of layer 3: layers are swapped",
    ),
    "another tokenizer": (None, {"vocab_size": 97}, "constants", "of another tokenizer"),
    "another seed": (None, {"seed": 1235}, "constants", "layer_multipliers[0] is"),
    "other layers": (None, {"ple_layer_ids": [1, 4]}, "tensors", "model.layers.0.ple."),
    "other base": (None, {"ngram_vocab_size_base": 60}, "tensors", "and the config calls for"),
    "other padding": (None, {"make_ngram_vocab_size_divisible_by": 128}, "tensors", "calls for"),
    "other width": (None, {"ple_embed_dim": 48}, "tensors", "calls for"),
    "odd width": (None, {"ple_embed_dim": 25}, "config", "25 is not a multiple of 2"),
    "more shards": (None, {"split_ngram_parts": 5}, "tensors", "shard_4.weight is missing"),
    "fewer shards": (None, {"split_ngram_parts": 3}, "tensors", "the config calls for 3 shards"),
    "lost shard": (
        drop(PLE.format(1) + "ngram_embedding.shard_2.weight"), {},
        "tensors", "model.layers.1.ple.ple_embedding.ngram_embedding.shard_2.weight is missing",
    ),
    "lost buffer": (
        drop(PLE.format(1) + "layer_multipliers"), {}, "tensors", "layer_multipliers is missing",
    ),
    "buffer as floats": (
        lambda t: t.update({PLE.format(1) + "layer_multipliers": torch.ones(3)}), {},
        "tensors", "layer_multipliers is F32, not I64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", QWEN_BROKEN)
def test_a_qwen_that_is_broken_in_one_way(qwen, tmp_path, case):
    change, settings, name, words = QWEN_BROKEN[case]
    folder = changed(qwen[0], tmp_path / "broken", change, settings)
    assert words in failed(folder)[name]
    assert run("verify", folder, "--json").json(5)["ok"] is False


def test_qwen_as_released(tmp_path):
    folder = qwen_release(tmp_path / "release")
    report = run("report", folder, "--json").json()
    (layer,) = report["layers"]
    assert (layer["layer_id"], layer["rows"], layer["hash_rows"]) == (1, 320_001_536, 320_001_446)
    assert report["totals"]["table_params"] == 51_200_245_760
    assert report["totals"]["table_bytes"] == 102_400_491_520
    assert report["table_dtype"] == "bfloat16"
    assert report["reads"]["bytes_per_token"] == 16 * 320
    checks = verdicts(folder)
    assert {name for name, check in checks.items() if not check.ok} == {"values"}
    assert checks["constants"].ok is True
    template = load_template("qwen3.8-flash-next").to_dict()
    config = inspect_checkpoint(folder).config.to_dict()
    assert {**config, "tokenizer": template["tokenizer"]} == template


@pytest.mark.parametrize("scale", [(), (1,), (2500012, 1), (2500012, 5)])
def test_qwen_in_fp8(tmp_path, scale):
    folder = qwen_release(tmp_path / "fp8", "F8_E4M3", scale)
    assert failed(folder) == {}
    (table,) = (part for part in inspect_checkpoint(folder).weights if part.group == "table")
    values = 4
    for size in scale:
        values *= size
    assert (table.dtype, table.params) == ("fp8", 51_200_245_760)
    assert table.size_bytes == 51_200_245_760 + 128 * values


def test_qwen_in_fp8_without_scales(tmp_path):
    folder = qwen_release(tmp_path / "fp8", "F8_E4M3")
    assert "shard_0.weight_scale is missing" in failed(folder)["scales"]
    assert "(and 127 more)" in failed(folder)["scales"]

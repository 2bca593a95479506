"""One way to open what may hold a memory: kinds, and nothing read before it is asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import CorruptFileError, InputError, MissingFileError, UsageError
from engram.storage import json_files
from engram.tensor_names import (
    OFFSETS,
    TABLE,
    TOKEN_MAP,
    is_memory,
    layer_and_part,
    module_name,
    tensor_name,
)
from support import tiny
from support.paths import BPE


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, a memory attached to it and alone, and the same under its published names."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    root = tmp_path_factory.mktemp("made")
    attach.attach(base, tiny.memory_config(), root / "attached")
    attach.attach(base, tiny.memory_config(), root / "adapter", adapter=True)
    convert(root / "attached", root / "released", "demo")
    return {"base": base, **{name: root / name for name in ("attached", "adapter", "released")}}


@pytest.mark.parametrize("kind", ["base", "attached", "adapter", "released"])
def test_kinds(folders, kind):
    opened = open_checkpoint(folders[kind])
    assert bool(opened.adapter) == (kind == "adapter")
    assert (opened.stated is not None) == (kind in ("attached", "adapter"))
    if kind == "base":
        assert (opened.memory_tensors, len(opened.base_tensors)) == ({}, len(opened.tensors))
        with pytest.raises(InputError, match="has no memory"):
            _ = opened.config
        return
    layers = opened.layers
    assert sorted(layers) == [1, 2]
    attached = open_checkpoint(folders["attached"])
    for layer_id, parts in layers.items():
        rows = parts[TABLE].rows
        same = attached.layers[layer_id][TABLE]
        assert np.array_equal(parts[TABLE].read_bytes(0, rows), same.read_bytes(0, rows))
    assert opened.addresses.fingerprint == attached.addresses.fingerprint
    assert opened.stored_config.table_dtype == "float32"


def test_a_memory_is_read_by_layer_and_part(folders):
    for kind in ("attached", "adapter"):
        opened = open_checkpoint(folders[kind])
        for layer in opened.addresses.layers:
            offsets = opened.constant(layer.layer_id, OFFSETS, "<i8")
            assert tuple(offsets.tolist()) == layer.offsets
        assert opened.constant(2, TOKEN_MAP, "<i4").max() + 1 == opened.addresses.vocab_size


def test_only_the_config_is_read_before_more_is_asked_for(folders, tmp_path):
    config = (folders["attached"] / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    opened = open_checkpoint(tmp_path)
    assert opened.config == open_checkpoint(folders["attached"]).config
    with pytest.raises(MissingFileError, match="no safetensors weights"):
        _ = opened.layers
    # Weights that no index names are not those of an attached folder.
    (weights,) = folders["attached"].glob("engram-*.safetensors")
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    assert open_checkpoint(tmp_path).tensors == {}


@pytest.mark.parametrize("kind", ["attached", "adapter"])
def test_a_config_is_read_once_in_a_verify(folders, kind, monkeypatch):
    read, parse = Counter(), json_files.parse_json

    def count(content, where, *args, **options):
        read[where.rpartition("/")[2]] += 1
        return parse(content, where, *args, **options)

    monkeypatch.setattr(json_files, "parse_json", count)
    # Its own tokenizer would be described by its config.json, too.
    checks = verify(folders[kind], headers_only=True, tokenizer=str(BPE))
    assert [check.name for check in checks if check.ok is False] == []
    assert read["config.json"] + read["engram_adapter.json"] == 1


def test_what_cannot_be_opened(folders, tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(InputError, match="neither a folder nor a safetensors file"):
        open_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="states its config"):
        open_checkpoint(folders["attached"], config=tiny.memory_config())
    (tmp_path / "config.json").write_text('{"engram": 3}')
    with pytest.raises(CorruptFileError, match="engram is 3"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["model.layers", "transformer.h", "layers"])
def test_names_are_taken_apart_as_they_are_made(path):
    for layer_id, part in ((0, TABLE), (17, "norm_key.weight")):
        name = tensor_name(path, layer_id, part)
        assert layer_and_part(name) == (layer_id, part)
        assert name.startswith(module_name(path, layer_id) + ".")
        assert is_memory(name)
    for name in (f"{path}.1.self_attn.q_proj.weight", f"{path}.1.engrams.weight", "engram.weight"):
        assert layer_and_part(name) is None
        assert not is_memory(name)

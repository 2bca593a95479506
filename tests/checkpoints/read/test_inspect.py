"""What an attached folder holds, told from its headers."""

from __future__ import annotations

import json

import pytest

from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.errors import ConfigError, CorruptFileError, InputError, MissingFileError
from engram.sizing.counts import count_params
from engram.sizing.weights import total_of
from support import stored_folder


@pytest.fixture
def folder(tmp_path):
    return stored_folder.write(tmp_path)


def write(path, values):
    path.write_text(json.dumps(values))


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    write(path, config)


def test_counts_are_those_of_the_config(folder):
    found = inspect_checkpoint(folder)
    counts = count_params(found.config)
    assert found.hash_rows == {layer.layer_id: layer.hash_rows for layer in counts.layers}
    assert list(found.hash_rows) == [3, 1]
    params = {part.part: part.params for part in found.weights}
    for layer in counts.layers:
        assert params[f"layers.{layer.layer_id}.table"] == layer.table_params
        for name, dense in layer.dense_parts.items():
            assert params[f"layers.{layer.layer_id}.{name}"] == dense
    assert total_of(found.weights, "dense") == (counts.dense_params, 2 * counts.dense_params)


def test_bytes_are_those_of_the_files(folder):
    found = inspect_checkpoint(folder)
    assert total_of(found.weights, "base") == (800, 3200)
    vocab = found.config.engram_vocab_size
    assert total_of(found.weights, "constants") == (0, 4 * vocab + 2 * 8 * 8)
    table = next(part for part in found.weights if part.group == "table")
    assert (table.dtype, table.size_bytes) == ("float16", 2 * table.params)
    assert {part.kind for part in found.weights} == {"exact"}


def test_a_lone_weight_file_without_memory(folder):
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(CorruptFileError, match="layer 3 should have one table"):
        inspect_checkpoint(folder)


def test_a_memory_that_lacks_its_table(folder):
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["model.layers.1.engram.multi_head_embedding.embedding.weight"]
    write(index, {"weight_map": weight_map})
    with pytest.raises(CorruptFileError, match="layer 1 should have one table"):
        inspect_checkpoint(folder)


def test_folders_that_are_no_attached_checkpoints(folder, tmp_path):
    edit(folder, lambda config: config.pop("engram"))
    with pytest.raises(InputError, match="has no memory"):
        inspect_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(MissingFileError):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("settings", [{}, [], "x", {"config": {}}, {"addresses": {"layers": 3}}])
def test_settings_that_attach_never_wrote(folder, settings):
    def change(config):
        if isinstance(settings, dict) and settings:
            config["engram"] |= settings
        else:
            config["engram"] = settings

    edit(folder, change)
    with pytest.raises((CorruptFileError, ConfigError)):
        inspect_checkpoint(folder)


def test_torn_shard(folder):
    shard = folder / "engram-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CorruptFileError):
        inspect_checkpoint(folder)


def test_index_that_leaves_the_folder(folder):
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    write(index, {"weight_map": dict.fromkeys(weight_map, "../elsewhere.safetensors")})
    with pytest.raises(CorruptFileError):
        inspect_checkpoint(folder)

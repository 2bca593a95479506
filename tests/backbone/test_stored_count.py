"""Families without a closed form: counted from safetensors headers, which may lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engram.backbone import load_backbone
from engram.errors import CorruptFileError, LayoutError, MissingFileError
from support.backbones import counted, write_config

UNKNOWN = {"model_type": "novel", "d_model": 8, "n_layers": 2, "vocab_size": 10}


def tensors(**more):
    import torch

    base = {"embed.weight": torch.ones(10, 8), "lm_head.weight": torch.ones(10, 8),
            "layers.0.w": torch.ones(3, 5), "layers.1.w": torch.ones(7),
            "layers.0.rotary_emb.inv_freq": torch.ones(4), "step": torch.ones(2, dtype=torch.int64),
            "layers.1.engram.table": torch.ones(100)}  # fmt: skip
    return {**base, **more}


def save(folder: Path, config: dict, **more) -> Path:
    from safetensors.torch import save_file

    write_config(folder, config)
    save_file(tensors(**more), folder / "model.safetensors")
    return folder


def test_unknown_family_is_counted_from_its_headers(tmp_path):
    backbone = load_backbone(save(tmp_path / "a", UNKNOWN))
    assert counted(backbone) == (80 + 80 + 15 + 7, 160, 182)
    assert (backbone.hidden_size, backbone.num_layers, backbone.params_kind) == (8, 2, "exact")
    tied = load_backbone(save(tmp_path / "b", {**UNKNOWN, "tie_word_embeddings": True}))
    assert counted(tied) == (102, 80, 102)


def test_unknown_family_with_experts_and_with_scales(tmp_path):
    import torch

    experts = {f"layers.0.mlp.experts.{i}.w": torch.ones(6) for i in range(4)}
    config = {**UNKNOWN, "num_local_experts": 4, "num_experts_per_tok": 1}
    assert counted(load_backbone(save(tmp_path / "a", config, **experts))) == (206, 160, 188)
    with pytest.raises(LayoutError, match="how many a token uses"):
        load_backbone(save(tmp_path / "b", UNKNOWN, **experts))
    fp8 = {"w": torch.ones(64).to(torch.float8_e4m3fn)}
    quantized = {**UNKNOWN, "quantization_config": {"quant_method": "fp8"}}
    scaled = load_backbone(save(tmp_path / "c", quantized, **fp8))
    assert (scaled.params, scaled.params_kind, scaled.dtype) == (246, "estimated", "fp8")
    packed = {"w": torch.ones(64, dtype=torch.int32)}
    with pytest.raises(LayoutError, match="packed into integers"):
        load_backbone(save(tmp_path / "d", quantized, **packed))


def test_shards_are_read_through_their_index(tmp_path):
    from safetensors.torch import save_file

    folder = write_config(tmp_path / "sharded", UNKNOWN)
    shards = {"one.safetensors": ["embed.weight", "layers.0.w"], "two.safetensors": ["layers.1.w"]}
    for shard, names in shards.items():
        save_file({name: tensors()[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert load_backbone(folder).params == 80 + 15 + 7

    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "two.safetensors"}}))
    with pytest.raises(CorruptFileError, match="more should be in two.safetensors"):
        load_backbone(folder)
    for bad in ({"w": "../one.safetensors"}, {"w": 3}, [], None):
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(CorruptFileError):
            load_backbone(folder)
    index.write_text(json.dumps({"weight_map": {**weight_map, "w": "three.safetensors"}}))
    with pytest.raises(MissingFileError, match=r"three\.safetensors"):
        load_backbone(folder)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{",
        '{"w": 3}',
        '{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        '{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        '{"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        '{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        '{"w": {"dtype": "F32", "shape": [999999999999, "x"], "data_offsets": [0, 4]}}',
        '{"w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}',
        "[" * 100_000,
    ],
)
def test_lying_headers_are_refused(tmp_path, header):
    folder = write_config(tmp_path / "lies", UNKNOWN)
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        load_backbone(folder)
    assert "model.safetensors" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("length", [0, 5, 8, 40])
def test_truncated_safetensors_are_refused(tmp_path, length):
    file = save(tmp_path / "torn", UNKNOWN) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CorruptFileError, match="damaged"):
        load_backbone(file.parent)

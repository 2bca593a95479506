"""Checkpoints of true headers over files that take no disk: real names, shapes and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

BITS = {"F8_E4M3": 8, "F8_E8M0": 8, "U8": 8, "I8": 8, "BF16": 16, "F16": 16, "F32": 32, "I64": 64}

Tensor = tuple[str, tuple[int, ...]]

V41_TEXT = {
    "model_type": "deepseek_v41_text",
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "vocab_size": 129280,
    "hc_mult": 4,
    "rms_norm_eps": 1e-20,
    "engram_layer_ids": [1, 14],
    "engram_num_embeddings": [384006168, 384016682],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 16000000,
    "engram_n_heads": 8,
    "engram_head_dim": 256,
    "engram_pad_token_id": 2,
    "engram_compressed_vocab_size": 99092,
}
V41_CONFIG = {
    "model_type": "deepseek_v41",
    "architectures": ["DeepseekV41ForCausalLM"],
    "text_config": V41_TEXT,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]},
}
V41_FLAT = {
    **{"dim": 5120, "n_layers": 40, "norm_eps": 1e-20, "engram_pad_id": 2},
    **{key: V41_TEXT[key] for key in ("vocab_size", "hc_mult")},
    **{k: v for k, v in V41_TEXT.items() if k.startswith("engram_") and "pad" not in k},
}


def v41_layer(layer: int, rows: int, width: int = 256, hidden: int = 5120, streams: int = 4):
    """Tensors of one layer of V4.1 as published, for three orders of eight heads."""
    prefix, out, memory = f"layers.{layer}.engram.", (streams + 1) * hidden, 24 * width
    return {
        prefix + "embed.weight": ("F8_E4M3", (rows, width)),
        prefix + "embed.scale": ("F8_E8M0", (rows, width // 32)),
        prefix + "wkv.weight": ("F8_E4M3", (out, memory)),
        prefix + "wkv.scale": ("F8_E8M0", (-(-out // 32), -(-memory // 32))),
        prefix + "q_weight": ("BF16", (streams, hidden)),
        prefix + "k_weight": ("BF16", (streams, hidden)),
    }


def write_file(
    path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, list[int]] | None = None
) -> Path:
    """Write a safetensors file of zeros that takes no disk, but for some 64-bit integers."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, numbers in (values or {}).items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(b"".join(number.to_bytes(8, "little", signed=True) for number in numbers))
    return path


def write(
    folder: Path,
    config: Mapping[str, Any] | None,
    shards: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, list[int]] | None = None,
) -> Path:
    """Write a folder of shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for file, tensors in shards.items():
        own = {name: numbers for name, numbers in (values or {}).items() if name in tensors}
        write_file(folder / file, tensors, own)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def v41(folder: Path, **changes: Any) -> Path:
    """Write the release's two tables in their shards, and a piece of the base."""
    shards = {
        "model-00001-of-00048.safetensors": {"embed.weight": ("BF16", (129280, 5120))},
        "model-00047-of-00048.safetensors": v41_layer(1, 384006168),
        "model-00048-of-00048.safetensors": v41_layer(14, 384016682),
    }
    return write(folder, V41_CONFIG, {**shards, **changes})

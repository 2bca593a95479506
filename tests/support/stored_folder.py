"""A small attached folder, written tensor by tensor without a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engram.config.templates import load_template
from engram.layouts import get_layout
from engram.sizing.counts import count_params

BASE = {"model.embed_tokens.weight": (50, 8), "lm_head.weight": (50, 8)}
BASE_SHARD, MEMORY_SHARD = "model-00001-of-00001.safetensors", "engram-00001-of-00001.safetensors"
TABLE = "multi_head_embedding.embedding.weight"


def write(folder: Path) -> Path:
    """Write a float32 base of 800 parameters, and a float16 memory at layers 3 and 1."""
    config = replace(
        load_template("tiny"),
        hidden_size=8,
        engram_table_size=[64, 64],
        n_embed_per_ngram=8,
        n_head_per_ngram=4,
        layer_ids=[3, 1],
    )
    counts = count_params(config)
    memory = {"model.layers.3.engram.token_map": np.zeros(config.engram_vocab_size, np.int32)}
    for layer in counts.layers:
        prefix = f"model.layers.{layer.layer_id}.engram."
        for name, shape in get_layout(config.layout).dense_shapes(config.sizes).items():
            memory[prefix + name] = np.ones(shape, np.float16)
        memory[prefix + TABLE] = np.ones((layer.rows, 2), np.float16)
        memory[f"{prefix}multi_head_embedding.offsets"] = np.zeros(8, np.int64)
    base = {name: np.ones(shape, np.float32) for name, shape in BASE.items()}
    save_file(base, folder / BASE_SHARD)
    save_file(memory, folder / MEMORY_SHARD)
    weight_map = dict.fromkeys(base, BASE_SHARD) | dict.fromkeys(memory, MEMORY_SHARD)
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    layers = [{"layer_id": layer.layer_id, "primes": layer.primes} for layer in counts.layers]
    settings = {"config": config.to_dict(), "addresses": {"layers": layers}}
    model_config = {"model_type": "engram_llama", "engram": settings}
    (folder / "config.json").write_text(json.dumps(model_config))
    return folder

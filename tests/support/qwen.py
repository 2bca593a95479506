"""Qwen's per-layer embedding: a tiny model of transformers, and the released memory's shapes."""

from __future__ import annotations

import json

import torch
from transformers import Qwen4ExpTextConfig
from transformers.models.qwen4_exp.modeling_qwen4_exp import (
    Qwen4ExpForCausalLM,
)

from engram.config.templates import load_template
from support import sparse_folder
from support.paths import GOLDEN

EOS = 4
LENGTH = 29
# What every tiny qwen4_exp of the tests is built from.
TINY = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "hc_lowrank": 4,
    "ple_embed_dim": 24,
    "heads_per_ngram": 3,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 16,
    "split_ngram_parts": 4,
    "eos_token_id": EOS,
}


def random_qwen():
    """A tiny qwen4_exp with two PLE layers, every weight random, and what it was asked."""
    config = Qwen4ExpTextConfig(
        **TINY,
        hc_count=2,
        ple_layer_ids=[2, 3],
        rms_norm_eps=1e-5,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=64,
        indexer_compress_ratio=4,
    )
    torch.manual_seed(0)
    model = Qwen4ExpForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".ple." in name:
            parameter.normal_(0, 0.7)
    ids = torch.randint(0, 96, (3, LENGTH))
    ids[torch.rand(3, LENGTH) < 0.15] = EOS
    assert (ids == EOS).any(dim=1).all()
    return model, ids


def qwen_release(folder, dtype="BF16", scale=None, **changes):
    """Qwen3.8-Flash-Next's memory over sparse files: 128 shards, buffers with their values."""
    constants = json.loads((GOLDEN / "qwen3_8_flash_next_constants.json").read_text())
    config = load_template("qwen3.8-flash-next")
    ple = "model.language_model.layers.1.ple."
    table = ple + "ple_embedding.ngram_embedding.shard_{}.weight"
    tensors = {table.format(i): (dtype, (2500012, 160)) for i in range(128)}
    if scale is not None:
        tensors |= {table.format(i) + "_scale": ("F32", scale) for i in range(128)}
    values = {
        ple + "ple_embedding.layer_multipliers": constants["multipliers"],
        ple + "ple_embedding.ngram_heads_vocab_sizes": constants["head_vocab_sizes"],
        ple + "ple_embedding.ngram_heads_offsets": constants["offsets"],
    }
    dense = {
        **{"key_proj.weight": (4 * 2560, 2560), "value_proj.weight": (2560, 2560)},
        **{f"norm_{name}.weight": (4 * 2560,) for name in ("key", "query", "conv")},
        "conv1d.weight": (4 * 2560, 1, 4),
    }
    tensors |= {name: ("I64", (len(numbers),)) for name, numbers in values.items()}
    tensors |= {ple + name: ("BF16", shape) for name, shape in dense.items()}
    text = {
        **{"model_type": "qwen4_exp_text", "vocab_size": config.engram_vocab_size},
        **{"hidden_size": 2560, "num_hidden_layers": 48, "ple_layer_ids": [2]},
        **{"ple_embed_dim": 2560, "ple_conv_kernel_size": 4, "ngram_size": 3},
        **{"heads_per_ngram": 8, "ngram_vocab_size_base": 20_000_000, "seed": 1234},
        **{"make_ngram_vocab_size_divisible_by": 128, "split_ngram_parts": 128},
        **{"hc_count": 4, "eos_token_id": [248044], "rms_norm_eps": 1e-6},
    }
    files = {"model-00001-of-00001.safetensors": tensors}
    config = {"model_type": "qwen4_exp", "text_config": {**text, **changes}}
    return sparse_folder.write(folder, config, files, values)

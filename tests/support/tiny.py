"""Tiny models with random weights, saved as Hugging Face folders, and memories for them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engram import EngramConfig
from engram.checkpoints.attach import attach
from support.paths import BPE

VOCAB = 544
HIDDEN = 32

_SHAPE = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}

SIZES = {
    "gpt2": {
        "n_embd": HIDDEN,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "llama": _SHAPE,
    "mistral": {**_SHAPE, "head_dim": 8, "sliding_window": 12},
    "qwen2": _SHAPE,
    "qwen3": {**_SHAPE, "head_dim": 8},
    "qwen3_moe": {**_SHAPE, **_EXPERTS, "head_dim": 8, "num_experts": 4},
    "mixtral": {**_SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {**_SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12},
    "gemma3_text": {**_SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12},
    "phi3": _SHAPE,
    "olmo2": _SHAPE,
    "gpt_neox": {
        **{key: value for key, value in _SHAPE.items() if key != "num_key_value_heads"},
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    },
    "smollm3": _SHAPE,
    "deepseek_v3": {
        **_SHAPE,
        **_EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    # Four residual streams: a gate for each.
    "deepseek_v4": {
        **_SHAPE,
        **_EXPERTS,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "hc_mult": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "sliding_window": 8,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 4,
    },
    # Not a family that the toolkit names: found by looking for its layers.
    "stablelm": _SHAPE,
    "opt": {
        **{"hidden_size": HIDDEN, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"max_position_embeddings": 128, "word_embed_proj_dim": HIDDEN, "dropout": 0.0},
    },
    "bloom": {"hidden_size": HIDDEN, "n_layer": 3, "n_head": 4},
}

# The families that tests go through: all of them, or those that the environment names.
FAMILIES = sorted(os.environ.get("ENGRAM_TEST_FAMILIES", ",".join(SIZES)).split(","))


def base_model(
    model_type: str,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    sizes: dict[str, object] | None = None,
    **save: object,
) -> Path:
    """Save a random model of a family, with a tokenizer, and return its folder."""
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **{**SIZES.get(model_type, {}), **(sizes or {})},
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():  # biases and norms too: zeros and ones hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, **save)
    for file in BPE.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def memory_config(**changes: object) -> EngramConfig:
    """A small memory for the tiny models: two layers out of order, three orders, two heads."""
    values = {
        "hidden_size": HIDDEN,
        "engram_vocab_size": VOCAB,
        "engram_table_size": [302, 406, 514],
        "max_ngram_size": 4,
        "n_embed_per_ngram": 8,
        "n_head_per_ngram": 2,
        "layer_ids": [2, 1],
        "kernel_size": 3,
        "pad_id": 2,
        "seed": 3,
    }
    return EngramConfig(**{**values, **changes})


def attached_model(
    base: Path, folder: Path, config: EngramConfig | None = None, **options: object
) -> Path:
    """Attach a memory and return the new folder."""
    attach.attach(base, config or memory_config(), folder, **options)
    return folder


def randomise(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give every weight of the memory, tables included, random values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".engram." in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (1.0 if parameter.ndim == 2 and "table" in name else 0.4))
    return model


def checkpointing(model: torch.nn.Module, on: bool) -> None:
    """Switch gradient checkpointing, which older releases of transformers call by another name."""
    word = "enable" if on else "disable"
    new, old = f"activation_checkpointing_{word}", f"gradient_checkpointing_{word}"
    getattr(model, new if hasattr(model, new) else old)()


# What transformers' own model of a family cannot do.
CANNOT = {
    "bloom": {"embeddings"},  # its head passes nothing but its own arguments to the decoder
    "deepseek_v4": {"embeddings", "crop", "assist", "resize"},
}


def skip_unless_possible(model: object, what: str) -> None:
    """Skip a test of what the base model cannot do by itself."""
    family = model.config.model_type.removeprefix("engram_")
    if what in CANNOT.get(family, ()):
        pytest.skip(f"{family} by itself cannot do it: {what}")


_MADE: dict[str, tuple[Path, Path]] = {}


def family_folders(model_type: str, tmp_path_factory: object) -> tuple[Path, Path]:
    """Return base and attached folder of a family, made once for all tests. Do not change them."""
    if model_type not in _MADE:
        folder = tmp_path_factory.mktemp(model_type)
        base = base_model(model_type, folder / "base")
        config = memory_config(hc_mult=SIZES[model_type].get("hc_mult", 1))
        _MADE[model_type] = (base, attached_model(base, folder / "attached", config))
    return _MADE[model_type]


def params_of(model: torch.nn.Module, *words: str) -> int:
    """Count the parameters with one of the words in their names."""
    return sum(p.numel() for name, p in model.named_parameters() if any(w in name for w in words))

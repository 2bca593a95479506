"""Tiny models with random weights, saved as Hugging Face folders, and memories for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engram import EngramConfig
from engram.checkpoints import attach

TOKENIZER = Path(__file__).parent / "golden" / "tokenizers" / "local_bpe"
VOCAB = 544
HIDDEN = 32

SIZES = {
    "gpt2": {
        "n_embd": HIDDEN,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "llama": {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
}


def base_model(
    model_type: str, folder: Path, dtype: torch.dtype = torch.float32, **save: object
) -> Path:
    """Save a random model of a family, with a tokenizer, and return its folder."""
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **SIZES[model_type],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():  # biases and norms too: zeros and ones hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, **save)
    for file in TOKENIZER.iterdir():
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
    attach.write(attach.plan(base, config or memory_config(), folder, **options))
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

"""Small modules of layout demo with random weights, and inputs for them."""

from __future__ import annotations

import torch

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.nn import EngramModule


def make_config(**changes) -> EngramConfig:
    values = {
        "hidden_size": 12,
        "engram_vocab_size": 300,
        "n_embed_per_ngram": 8,
        "n_head_per_ngram": 2,
        "layer_ids": [3, 1],
        "pad_id": 0,
        **changes,
    }
    orders = values.get("max_ngram_size", 3) - 1
    values.setdefault("engram_table_size", [90 + 20 * i for i in range(orders)])
    return EngramConfig(**values)


def make_module(config: EngramConfig, layer_id: int = 1, seed: int = 0, **kwargs) -> EngramModule:
    """Build a module with every weight random and not zero."""
    module = EngramModule(config, head_primes(config)[layer_id], **kwargs)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 1.0 if "embedding" in name else 0.3
            parameter.copy_(torch.randn_like(parameter) * scale + ("norm" in name))
    return module


def make_inputs(module: EngramModule, batch: int = 2, length: int = 21, dtype=torch.float32):
    config = module.config
    sizes = torch.tensor(module.multi_head_embedding.head_sizes)
    ids = (torch.rand(batch, length, config.n_columns) * sizes).long()
    hidden = torch.randn(batch, length, config.hc_mult, config.hidden_size, dtype=dtype)
    return hidden, ids

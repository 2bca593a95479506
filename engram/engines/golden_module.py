"""Inputs, weights and outputs of a small module of a layout, for engines to compare theirs with.

Shapes: B sequences, T tokens, M streams, D hidden size, C columns.
"""

from __future__ import annotations

from typing import Any

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig

_SEED, _TOKENS = 20260127, 6
_HEADS, _ROWS_PER_HEAD, _WIDTH = 2, 11, 4
# Differences between float32 results of different orders of summation.
TOLERANCE = 1e-5


def module_vectors(config: EngramConfig) -> dict[str, Any]:
    """Run a small module of a memory's layout, orders and epsilon, in float32.

    Args:
        config: The memory.

    Returns:
        Its config, weights by our names, inputs and outputs as lists, and the tolerance.
    """
    import torch

    from engram.nn import EngramModule

    small = small_config(config)
    primes = head_primes(small)[small.layer_ids[0]]
    module = EngramModule(small, primes, dtype=torch.float32)
    generator = torch.Generator().manual_seed(_SEED)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    parameters = dict(module.named_parameters())
    sizes = torch.tensor(primes).flatten()  # [C]
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(random(*parameter.shape) * (0.4 if parameter.ndim > 1 else 0.8))
        hash_ids = (torch.rand(1, _TOKENS, len(sizes), generator=generator) * sizes).long()
        hidden = random(1, _TOKENS, small.hc_mult, small.hidden_size)
        keep = torch.ones(1, _TOKENS, dtype=torch.bool)
        keep[0, -1] = False
        output, masked = module(hidden, hash_ids), module(hidden, hash_ids, keep=keep)
    eps = torch.finfo(torch.float32).eps if small.eps is None else small.eps
    offsets = module.multi_head_embedding.offsets
    return {
        "config": small.to_dict(),
        "eps": eps,
        "residual_included": small.rules.residual_included,
        "tolerance": TOLERANCE,
        "weights": {name: parameter.tolist() for name, parameter in parameters.items()},
        "hidden_states": hidden.tolist(),
        "row_ids": (hash_ids + offsets).tolist(),
        "output": output.tolist(),
        "keep": keep.int().tolist(),
        "output_with_keep": masked.tolist(),
    }


def small_config(config: EngramConfig) -> EngramConfig:
    """Return a memory of the same layout, orders and epsilon that is small enough to print."""
    orders = len(config.orders)
    return EngramConfig(
        layout=config.layout,
        hidden_size=8,
        engram_vocab_size=64,
        engram_table_size=[_HEADS * _ROWS_PER_HEAD] * orders,
        max_ngram_size=config.max_ngram_size,
        n_embed_per_ngram=_HEADS * _WIDTH,
        n_head_per_ngram=_HEADS,
        layer_ids=[1],
        hc_mult=2,
        pad_id=0,
        eos_id=1,
        eps=config.eps,
        row_multiple=1,
    )

"""The layout of Qwen3.8-Flash-Next's per-layer n-gram embedding (transformers: ``qwen4_exp``)."""

from __future__ import annotations

import re

from engram.config.engram_config import EngramConfig
from engram.layouts.base import Layout


def dense_shapes(config: EngramConfig) -> dict[str, tuple[int, ...]]:
    """Name the tensors of one layer's module without its table (transformers' ``qwen4_exp``).

    Returns:
        Shapes with memory width E, hidden size D, M streams, K taps: key and value projections
        without bias, the three grouped norms and the depthwise convolution.
    """
    memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
    return {
        "value_proj.weight": (hidden, memory),
        "key_proj.weight": (streams * hidden, memory),
        "norm_key.weight": (streams * hidden,),
        "norm_query.weight": (streams * hidden,),
        "norm_conv.weight": (streams * hidden,),
        "conv1d.weight": (streams * hidden, 1, config.kernel_size),
    }


QWEN_PLE = Layout(
    name="qwen_ple",
    title="Qwen3.8-Flash-Next (per-layer embedding)",
    source="transformers 5.23.0 models/qwen4_exp/modeling_qwen4_exp.py",
    hashes="raw",
    multiplier_draw="splitmix64",
    multiplier_key="index",
    prime_order="sorted",
    fill="eos",
    ends_after_eos=True,
    masked="dead",
    residual_included=False,
    dense_shapes=dense_shapes,
)

_NAMES = {
    "ple_embedding.ngram_embedding.weight": "multi_head_embedding.embedding.weight",
    "ple_embedding.ngram_heads_offsets": "multi_head_embedding.offsets",
}
_SHARD = re.compile(r"^ple_embedding\.ngram_embedding\.shard_(\d+)\.weight$")


def from_reference_name(name: str) -> tuple[str, int | None]:
    """Translate a tensor name of transformers' ``qwen4_exp`` into ours.

    Args:
        name: Name behind ``layers.N.ple.``, such as ``ple_embedding.ngram_embedding.weight``.

    Returns:
        Our name, and which shard of the table it is (None for a tensor that is whole). Two
        constants have no tensor of ours and keep their names: ``ple_embedding.layer_multipliers``
        and ``ple_embedding.ngram_heads_vocab_sizes``.
    """
    match = _SHARD.match(name)
    if match:
        return "multi_head_embedding.embedding.weight", int(match[1])
    return _NAMES.get(name, name), None

"""The layout of DeepSeek-V4.1-Flash: orders 2..4, one fused projection, no convolution."""

from __future__ import annotations

from engram.config.engram_config import EngramConfig
from engram.layouts.base import Layout


def dense_shapes(config: EngramConfig) -> dict[str, tuple[int, ...]]:
    """Name the tensors of one layer's module without its table (released inference/engram.py).

    Returns:
        Shapes with memory width E, hidden size D, M streams: the fused key and value projection
        without bias, and the two vectors that play the norms of keys and queries.
    """
    memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
    return {
        "wkv.weight": ((streams + 1) * hidden, memory),
        "k_weight": (streams, hidden),
        "q_weight": (streams, hidden),
    }


DEEPSEEK_V41 = Layout(
    name="deepseek_v41",
    title="DeepSeek-V4.1-Flash",
    source="deepseek-ai/DeepSeek-V4.1-Flash inference/engram.py",
    hashes="compressed",
    multiplier_draw="pcg64",
    multiplier_key="layer_id",
    prime_order="given",
    fill="pad",
    ends_after_eos=False,
    masked="dead",
    residual_included=True,
    dense_shapes=dense_shapes,
)

_NAMES = {
    "embed.weight": "multi_head_embedding.embedding.weight",
    "embed.scale": "multi_head_embedding.embedding.scale",
}


def from_reference_name(name: str) -> tuple[str, int | None]:
    """Translate a tensor name of the released module into ours.

    Args:
        name: Name behind ``layers.N.engram.``, such as ``embed.weight``.

    Returns:
        Our name, and None: every tensor is whole. Scales (``.scale``) have no tensor of ours.
    """
    return _NAMES.get(name, name), None

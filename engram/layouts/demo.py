"""The layout of DeepSeek's reference demo and of the paper's Engram-27B and Engram-40B."""

from __future__ import annotations

import re

from engram.config.engram_config import EngramConfig
from engram.layouts.base import Layout


def dense_shapes(config: EngramConfig) -> dict[str, tuple[int, ...]]:
    """Name the tensors of one layer's module without its table (arXiv 2601.07372, section 2.3).

    Returns:
        Shapes with memory width E, hidden size D, M streams, K taps: the shared value projection,
        one key projection per stream (stacked), the norms of keys and queries, the norm before the
        convolution and its taps.
    """
    memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
    return {
        "value_proj.weight": (hidden, memory),
        "value_proj.bias": (hidden,),
        "key_proj.weight": (streams * hidden, memory),
        "key_proj.bias": (streams * hidden,),
        "norm_key": (streams, hidden),
        "norm_query": (streams, hidden),
        "conv_norm": (streams, hidden),
        "conv.weight": (streams * hidden, 1, config.kernel_size),
    }


DEMO = Layout(
    name="demo",
    title="reference demo; Engram-27B and Engram-40B of the paper",
    source="deepseek-ai/Engram engram_demo_v1.py; arXiv 2601.07372",
    hashes="compressed",
    multiplier_draw="pcg64",
    multiplier_key="layer_id",
    prime_order="given",
    fill="pad",
    ends_after_eos=False,
    masked="absent",
    residual_included=False,
    dense_shapes=dense_shapes,
)

_STREAM_NAMES = {
    "key_projs.weight": "key_proj.weight",
    "key_projs.bias": "key_proj.bias",
    "norm1.weight": "norm_key",
    "norm2.weight": "norm_query",
    "short_conv.norms.weight": "conv_norm",
}
_WHOLE_NAMES = {"short_conv.conv.weight": "conv.weight"}
_STREAM = re.compile(r"^(key_projs|norm1|norm2|short_conv\.norms)\.(\d+)\.(weight|bias)$")


def from_reference_name(name: str) -> tuple[str, int | None]:
    """Translate a tensor name of the reference demo's module into ours.

    The demo keeps one module per stream; ours stacks the streams in the tensor's first dimension.

    Args:
        name: Name in the demo's state dict, such as ``key_projs.2.weight``.

    Returns:
        Our name, and the stream whose part it is (None for a tensor that is whole).
    """
    match = _STREAM.match(name)
    if match:
        return _STREAM_NAMES[f"{match[1]}.{match[3]}"], int(match[2])
    return _WHOLE_NAMES.get(name, name), None

"""The layout of Qwen3.8-Flash-Next's per-layer n-gram embedding (transformers: ``qwen4_exp``)."""

from __future__ import annotations

from engram.config import EngramConfig
from engram.layouts.base import Layout


def dense_parts(config: EngramConfig) -> dict[str, int]:
    """Count the parameters of one layer's module without its table.

    Returns:
        Parameters by part: key and value projections without bias, the three grouped norms over
        ``M*D`` weights and the depthwise convolution.
    """
    memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
    return {
        "value_proj": memory * hidden,
        "key_proj": streams * memory * hidden,
        "norm_key": streams * hidden,
        "norm_query": streams * hidden,
        "norm_conv": streams * hidden,
        "conv1d": streams * hidden * config.kernel_size,
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
    residual_included=False,
    dense_parts=dense_parts,
)

"""The module of DeepSeek's reference demo and of the paper's models, batched over streams.

Shapes: B sequences, T tokens, M streams, D hidden size, E memory width, P = M * D channels, K taps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.layouts.demo import from_reference_name
from engram.nn.functional import causal_conv, rms_norm, signed_sqrt_gate
from engram.nn.module import EngramModule, Init

CONV_NORM_EPS = 1e-5


class CausalConv(nn.Module):
    """Taps of a depthwise convolution over the past.

    Args:
        channels: Channels P.
        taps: Taps K per channel.
        dilation: Tokens from one tap to the next.
        factory: `device` and `dtype` of the weight.
    """

    def __init__(self, channels: int, taps: int, dilation: int, factory: dict[str, Any]) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, 1, taps, **factory))

    def forward(self, x: Tensor, window: Tensor | None) -> Tensor:
        """Convolve ``[B, T, P]``, after the window ``[B, <= W, P]``. See `causal_conv`."""
        return causal_conv(x, self.weight, self.dilation, window)


class DemoModule(EngramModule, layout="demo"):
    """The reference demo's module (engram_demo_v1.py; arXiv 2601.07372, section 2.3).

    One value of the memory for all streams, gated for each by how its key agrees with the stream's
    hidden state; then a dilated causal convolution with SiLU beside it. State dicts with the
    demo's own names load as they are.

    What lies between the projections and the result is computed in float32 or better.
    """

    def _build(self, factory: dict[str, Any]) -> None:
        config = self.config
        memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
        self.value_proj = nn.Linear(memory, hidden, **factory)
        self.key_proj = nn.Linear(memory, streams * hidden, **factory)
        self.norm_key = nn.Parameter(torch.empty(streams, hidden, **factory))
        self.norm_query = nn.Parameter(torch.empty(streams, hidden, **factory))
        self.conv_norm = nn.Parameter(torch.empty(streams, hidden, **factory))
        self.conv = CausalConv(streams * hidden, config.kernel_size, config.max_ngram_size, factory)
        self.register_load_state_dict_pre_hook(_stack_reference_streams)

    def _reset_dense(self, init: Init) -> None:
        self.value_proj.reset_parameters()
        self.key_proj.reset_parameters()
        for norm in (self.norm_key, self.norm_query, self.conv_norm):
            nn.init.ones_(norm)
        nn.init.zeros_(self.conv.weight)
        if init == "identity":
            nn.init.zeros_(self.value_proj.weight)
            nn.init.zeros_(self.value_proj.bias)

    def _read(
        self, streams: Tensor, memory: Tensor, keep: Tensor | None, window: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        eps = self.config.eps
        memory = memory.to(self.value_proj.weight.dtype)
        value = self.value_proj(memory)  # [B, T, D]
        keys = self.key_proj(memory).unflatten(-1, self.norm_key.shape)  # [B, T, M, D]
        gates = signed_sqrt_gate(
            rms_norm(keys, self.norm_key, eps), rms_norm(streams, self.norm_query, eps)
        )
        if keep is not None:
            # A closed gate makes the convolution's input zero as well.
            gates = gates.masked_fill(~keep[:, :, None], 0)
        gated = gates[..., None] * value[:, :, None]  # [B, T, M, D]
        conv_inputs = rms_norm(gated, self.conv_norm, CONV_NORM_EPS).to(value.dtype).flatten(2)
        out = gated + F.silu(self.conv(conv_inputs, window)).view_as(gated)
        if keep is not None:
            out = out.masked_fill(~keep[:, :, None, None], 0)
        return out.to(streams.dtype), conv_inputs


def _stack_reference_streams(
    module: DemoModule, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Rename the demo's tensors before loading, and join its one tensor per stream."""
    streams: dict[str, dict[int, str]] = {}
    for name in [name for name in state if name.startswith(prefix)]:
        ours, stream = from_reference_name(name.removeprefix(prefix))
        if stream is not None:
            streams.setdefault(ours, {})[stream] = name
        elif prefix + ours != name:
            state[prefix + ours] = state.pop(name)
    for ours, names in streams.items():
        # Too few or too many are left alone: torch then names them as unexpected.
        if sorted(names) == list(range(module.config.hc_mult)):
            parts = [state.pop(names[i]) for i in range(module.config.hc_mult)]
            join = torch.cat if ours.startswith("key_proj.") else torch.stack
            state[prefix + ours] = join(parts)

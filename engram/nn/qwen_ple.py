"""The module of Qwen3.8-Flash-Next's per-layer n-gram embedding (transformers: ``qwen4_exp``).

Shapes: B sequences, T tokens, M streams, D hidden size, E memory width, P = M * D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engram.nn.functional import (
    CausalConv,
    ConvPast,
    conv_inputs,
    gate_and_smooth,
    rms_norm,
    signed_sqrt_gate,
)
from engram.nn.inputs import for_projection
from engram.nn.module import EngramModule, Init


class GroupedNorm(nn.Module):
    """Root mean square norm of every stream, with factors 1 + weight.

    Args:
        streams: Streams M.
        hidden_size: Channels D of a stream.
        eps: Epsilon added to the mean square.
        factory: `device` and `dtype` of the weight.
    """

    def __init__(
        self, streams: int, hidden_size: int, eps: float | None, factory: dict[str, Any]
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(streams * hidden_size, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, T, M, D]``, in float32 or better."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return rms_norm(x, (1 + self.weight.to(wide)).view(x.shape[-2:]), self.eps)


class QwenPleModule(EngramModule, layout="qwen_ple"):
    """The per-layer n-gram embedding of Qwen3.8-Flash-Next (transformers' `Qwen4ExpTextPLELayer`).

    Like the demo's module, without biases and with norms that start at 1 + 0. State dicts with
    transformers' names load directly, the table in shards or whole; the constants in them are
    compared with those of this module.

    Everything between the projections and the result is computed in float32 or better.
    """

    def _build(self, factory: dict[str, Any]) -> None:
        config = self.config
        memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
        self.value_proj = nn.Linear(memory, hidden, bias=False, **factory)
        self.key_proj = nn.Linear(memory, streams * hidden, bias=False, **factory)
        self.norm_key = GroupedNorm(streams, hidden, config.eps, factory)
        self.norm_query = GroupedNorm(streams, hidden, config.eps, factory)
        self.norm_conv = GroupedNorm(streams, hidden, config.eps, factory)
        self.conv1d = CausalConv(
            streams * hidden, config.kernel_size, config.max_ngram_size, factory
        )

    def _reset_dense(self, init: Init) -> None:
        self.value_proj.reset_parameters()
        self.key_proj.reset_parameters()
        for module in (self.norm_key, self.norm_query, self.norm_conv, self.conv1d):
            nn.init.zeros_(module.weight)
        if init == "identity":
            nn.init.zeros_(self.value_proj.weight)

    def _read(
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, ConvPast]:
        memory = for_projection(memory, self.value_proj, self.norm_key.weight.dtype)
        value = self.value_proj(memory)  # [B, T, D]
        keys = self.key_proj(memory).unflatten(-1, streams.shape[-2:])  # [B, T, M, D]
        gates = signed_sqrt_gate(self.norm_key(keys), self.norm_query(streams))
        out, past = gate_and_smooth(
            *(gates, value, self.norm_conv, self.conv1d, keep, window, since),
            close_gaps=self.layout.masked == "absent",
        )
        return out.to(streams.dtype), past

    def _conv_inputs(self, memory: Tensor, gates: Tensor) -> Tensor:
        value = self.value_proj(for_projection(memory, self.value_proj, self.norm_key.weight.dtype))
        return conv_inputs(gates, value, self.norm_conv)[1]

"""The module of DeepSeek's reference demo and of the paper's models, batched over streams.

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

CONV_NORM_EPS = 1e-5


class DemoModule(EngramModule, layout="demo"):
    """The reference demo's module (engram_demo_v1.py; arXiv 2601.07372, section 2.3).

    All streams share one value of the memory; each gates it by the agreement of its key with its
    hidden state. A dilated causal convolution with SiLU is added. State dicts with the demo's own
    names load directly.

    Everything between the projections and the result is computed in float32 or better.
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
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, ConvPast]:
        eps = self.config.eps
        memory = for_projection(memory, self.value_proj, self.norm_key.dtype)
        value = self.value_proj(memory)  # [B, T, D]
        keys = self.key_proj(memory).unflatten(-1, self.norm_key.shape)  # [B, T, M, D]
        gates = signed_sqrt_gate(
            rms_norm(keys, self.norm_key, eps), rms_norm(streams, self.norm_query, eps)
        )
        out, past = gate_and_smooth(
            *(gates, value, self._norm_conv, self.conv, keep, window, since),
            close_gaps=self.layout.masked == "absent",
        )
        return out.to(streams.dtype), past

    def _conv_inputs(self, memory: Tensor, gates: Tensor) -> Tensor:
        value = self.value_proj(for_projection(memory, self.value_proj, self.norm_key.dtype))
        return conv_inputs(gates, value, self._norm_conv)[1]

    def _norm_conv(self, gated: Tensor) -> Tensor:
        return rms_norm(gated, self.conv_norm, CONV_NORM_EPS)

"""The arithmetic of the toy family: the memory's value, gated by each stream's hidden state."""

from __future__ import annotations

import torch
from torch import nn

from engram.nn.module import EngramModule
from engram.nn.value_projection import start_value


class ToyModule(EngramModule, layout="toy"):
    def _build(self, factory):
        config = self.config
        self.value = nn.Linear(config.memory_width, config.hidden_size, bias=False, **factory)
        self.gate = nn.Parameter(torch.empty(config.hc_mult, config.hidden_size, **factory))

    def _reset_dense(self, init):
        self.value.reset_parameters()
        nn.init.ones_(self.gate)
        start_value(self.value.weight, None, init)

    def _read(self, streams, memory, keep, window, since):
        gates = torch.sigmoid((streams * self.gate).mean(dim=-1))  # [B, T, M]
        if keep is not None:
            gates = gates.masked_fill(~keep[:, :, None], 0)
        value = self.value(memory.to(self.value.weight.dtype))  # [B, T, D]
        return (gates[..., None] * value[:, :, None]).to(streams.dtype), gates, None

"""The module of DeepSeek-V4.1-Flash: one fused projection, no convolution, residual included.

Shapes: B sequences, T tokens, M streams, D hidden size, E memory width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from engram.config.init import Init
from engram.nn.inputs import for_projection
from engram.nn.module import EngramModule
from engram.nn.value_projection import start_value


class DeepseekV41Module(EngramModule, layout="deepseek_v41"):
    """The module of DeepSeek-V4.1-Flash (released inference/engram.py).

    One projection gives the keys of all streams and the value that they share; each stream gates
    the value by the agreement of its key with its hidden state. The gate is computed in float32 or
    better. State dicts with the released names load directly, fp8 with its scales included.
    """

    def _build(self, factory: dict[str, Any]) -> None:
        config = self.config
        memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
        self.wkv = nn.Linear(memory, (streams + 1) * hidden, bias=False, **factory)
        self.k_weight = nn.Parameter(torch.empty(streams, hidden, **factory))
        self.q_weight = nn.Parameter(torch.empty(streams, hidden, **factory))

    def _reset_dense(self, init: Init) -> None:
        self.wkv.reset_parameters()
        nn.init.ones_(self.k_weight)
        nn.init.ones_(self.q_weight)
        start_value(self.wkv.weight[-self.config.hidden_size :], None, init)

    def _read(
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, Tensor, None]:
        hidden_size, eps = streams.shape[-1], cast(float, self.config.eps)
        projected = self.wkv(for_projection(memory, self.wkv, self.k_weight.dtype))
        wide = torch.promote_types(projected.dtype, streams.dtype)
        wide = torch.promote_types(wide, torch.float32)
        hidden = streams.to(wide)  # [B, T, M, D]
        keys, value = projected.to(wide).split([self.k_weight.numel(), hidden_size], dim=-1)
        keys = keys.unflatten(-1, self.k_weight.shape)  # [B, T, M, D]
        weights = self.q_weight.to(wide) * self.k_weight.to(wide)
        rstd = _rstd(hidden, eps) * _rstd(keys, eps)
        agreement = (hidden * weights * keys).sum(dim=-1) * rstd * hidden_size**-0.5
        # Unlike the demo's gate, this one depends on the sign of zero: it is never exactly 0.5.
        root = agreement.abs().clamp_min(1e-6).sqrt()
        gates = torch.sigmoid(torch.copysign(root, agreement))  # [B, T, M]
        if keep is not None:
            gates = gates.masked_fill(~keep[:, :, None], 0)
        out = hidden + gates[..., None] * value[:, :, None]
        return out.to(streams.dtype), gates, None


def _rstd(x: Tensor, eps: float) -> Tensor:
    """Return one over the root mean square of the last dimension."""
    return torch.rsqrt(x.square().mean(dim=-1) + eps)

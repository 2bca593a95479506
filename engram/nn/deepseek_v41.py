"""The module of DeepSeek-V4.1-Flash: one fused projection, no convolution, residual included.

Shapes: B sequences, T tokens, M streams, D hidden size, E memory width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from engram.errors import MismatchError
from engram.layouts.deepseek_v41 import from_reference_name
from engram.nn.inputs import for_projection
from engram.nn.module import EngramModule, Init
from engram.nn.quantised import dequantise_fp8
from engram.nn.quantised_embedding import QuantisedEmbedding
from engram.nn.reference_names import rename


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
        self.register_load_state_dict_pre_hook(_translate_released)

    def _reset_dense(self, init: Init) -> None:
        self.wkv.reset_parameters()
        nn.init.ones_(self.k_weight)
        nn.init.ones_(self.q_weight)
        if init == "identity":
            with torch.no_grad():
                self.wkv.weight[-self.config.hidden_size :].zero_()  # the value's rows

    def _read(
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, None]:
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
        return out.to(streams.dtype), None


def _rstd(x: Tensor, eps: float) -> Tensor:
    """Return one over the root mean square of the last dimension."""
    return torch.rsqrt(x.square().mean(dim=-1) + eps)


def _translate_released(
    module: DeepseekV41Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Rename the released tensors before loading, and dequantise all but a quantised table."""
    released = f"{prefix}embed.weight" in state
    rename(state, prefix, from_reference_name)
    table = f"{prefix}multi_head_embedding.embedding"
    scaled = [(f"{prefix}wkv", 32)]
    if not isinstance(module.multi_head_embedding.embedding, QuantisedEmbedding):
        scaled.append((table, 1))
    for name, rows_per_scale in scaled:
        codes, scales = state.get(f"{name}.weight"), state.pop(f"{name}.scale", None)
        if codes is None or codes.dtype != torch.float8_e4m3fn:
            continue
        if scales is None:
            raise MismatchError(
                f"{name}.weight is fp8, but its scales are missing.",
                f"Load {name}.scale together with it.",
                tensor=f"{name}.weight",
            )
        state[f"{name}.weight"] = dequantise_fp8(codes, scales, rows_per_scale=rows_per_scale)
    if released:
        # The release has stored constants that this module derives from the config.
        state[f"{prefix}multi_head_embedding.offsets"] = module.multi_head_embedding.offsets

"""The modules with a gate and a causal convolution: the reference demo's, and Qwen's.

Shapes: B sequences, T tokens, M streams, D hidden size, E memory width, P = M * D channels.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.config.init import Init
from engram.nn.compat import is_plain
from engram.nn.functional import CausalConv, ConvPast, rms_norm, signed_sqrt_gate
from engram.nn.fused_read import ReadWeights, fused_read
from engram.nn.gaps import gaps_in
from engram.nn.inputs import for_projection
from engram.nn.module import EngramModule
from engram.nn.value_projection import start_value

CONV_NORM_EPS = 1e-5


class DemoModule(EngramModule, layout="demo"):
    """The reference demo's module (engram_demo_v1.py; arXiv 2601.07372, section 2.3).

    All streams share one value of the memory; each gates it by the agreement of its key with its
    hidden state. A dilated causal convolution with SiLU is added. State dicts with the demo's own
    names load directly.

    Everything between the projections and the result is computed in float32 or better.
    """

    # Differences of Qwen's: biases, names of the convolution and the norm of its inputs, and the
    # initial weight of norms.
    bias: ClassVar[bool] = True
    conv_name: ClassVar[str] = "conv"
    conv_norm_name: ClassVar[str] = "conv_norm"
    norm_start: ClassVar[float] = 1.0

    def _build(self, factory: dict[str, Any]) -> None:
        config = self.config
        memory, hidden, streams = config.memory_width, config.hidden_size, config.hc_mult
        self.value_proj = nn.Linear(memory, hidden, bias=self.bias, **factory)
        self.key_proj = nn.Linear(memory, streams * hidden, bias=self.bias, **factory)
        for name in ("norm_key", "norm_query", self.conv_norm_name):
            setattr(self, name, self._new_norm(factory))
        conv = CausalConv(streams * hidden, config.kernel_size, config.max_ngram_size, factory)
        setattr(self, self.conv_name, conv)

    def _reset_dense(self, init: Init) -> None:
        self.value_proj.reset_parameters()
        self.key_proj.reset_parameters()
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.constant_(parameter, self.norm_start)
        nn.init.zeros_(self._conv.weight)
        start_value(self.value_proj.weight, self.value_proj.bias, init)

    def _read(
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, Tensor, ConvPast]:
        memory = for_projection(memory, self.value_proj, self._conv.weight.dtype)
        value = self.value_proj(memory)  # [B, T, D]
        keys = self.key_proj(memory).unflatten(-1, streams.shape[-2:])  # [B, T, M, D]
        gaps = gaps_in(keep, window is not None) if self.layout.masked == "absent" else None
        if since is None and gaps is None:
            fused = fused_read(value, keys, streams, keep, window, self._read_weights)
            if fused is not None:
                return fused[0], fused[1], ConvPast(fused[2], fused[1])
        gates = signed_sqrt_gate(self._norm("norm_key", keys), self._norm("norm_query", streams))
        if keep is not None:
            # A closed gate makes the convolution's input zero as well.
            gates = gates.masked_fill(~keep[:, :, None], 0)
        gated, inputs = self._gated(value, gates)
        convolved, window = self._conv(inputs, window, since, gaps)
        out = F.silu(convolved).view_as(gated).add_(gated)
        if keep is not None:
            out = out.masked_fill(~keep[:, :, None, None], 0)
        return out.to(streams.dtype), gates, ConvPast(window, gates)

    def _conv_inputs(self, memory: Tensor, gates: Tensor) -> Tensor:
        memory = for_projection(memory, self.value_proj, self._conv.weight.dtype)
        return self._gated(self.value_proj(memory), gates)[1]

    def _gated(self, value: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Gate the value ``[B, T, M, D]``, and normalise it for the convolution ``[B, T, P]``."""
        gated = gates[..., None] * value[:, :, None]
        return gated, self._norm(self.conv_norm_name, gated).to(value.dtype).flatten(2)

    @property
    def _conv(self) -> CausalConv:
        return cast(CausalConv, getattr(self, self.conv_name))

    def _new_norm(self, factory: dict[str, Any]) -> nn.Module | nn.Parameter:
        """Make the weight of a norm of every stream."""
        return nn.Parameter(torch.empty(self.config.hc_mult, self.config.hidden_size, **factory))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise ``[B, T, M, D]``, in float32 or better."""
        return rms_norm(x, getattr(self, name), self._eps(name))

    def _norm_factors(self, name: str) -> Tensor | None:
        """Return the factors ``[M, D]`` of a norm; None if its module was replaced or has hooks."""
        return cast(Tensor, getattr(self, name))

    def _read_weights(self) -> ReadWeights | None:
        """Return what a fused read needs; None if a part was replaced or has hooks."""
        names = ("norm_key", "norm_query", self.conv_norm_name)
        key, query, conv = (self._norm_factors(name) for name in names)
        # Wrappers and hooks of other libraries must be called.
        if key is None or query is None or conv is None or not is_plain(self._conv, CausalConv):
            return None
        eps, conv_eps = self._eps("norm_key"), self._eps(self.conv_norm_name)
        return ReadWeights(key, query, conv, self._conv.weight, eps, conv_eps, self._conv.dilation)

    def _eps(self, name: str) -> float | None:
        """Return the epsilon of a norm; None for the machine epsilon."""
        return CONV_NORM_EPS if name == self.conv_norm_name else self.config.eps


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
        return rms_norm(x, self.factors(x.shape[-2:]), self.eps)

    def factors(self, shape: Sequence[int]) -> Tensor:
        """Return 1 + weight as ``[M, D]``, in float32 or better."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return (1 + self.weight.to(wide)).view(*shape)


class QwenPleModule(DemoModule, layout="qwen_ple"):
    """The per-layer n-gram embedding of Qwen3.8-Flash-Next (transformers' `Qwen4ExpTextPLELayer`).

    Like the demo's module, without biases and with norms that start at 1 + 0. State dicts with
    transformers' names load directly, the table in shards or whole; the constants in them are
    compared with those of this module.
    """

    bias = False
    conv_name = "conv1d"
    conv_norm_name = "norm_conv"
    norm_start = 0.0

    def _new_norm(self, factory: dict[str, Any]) -> nn.Module:
        return GroupedNorm(self.config.hc_mult, self.config.hidden_size, self.config.eps, factory)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return cast(Tensor, getattr(self, name)(x))

    def _eps(self, name: str) -> float | None:
        return self.config.eps

    def _norm_factors(self, name: str) -> Tensor | None:
        norm = getattr(self, name)
        shape = (self.config.hc_mult, self.config.hidden_size)
        return norm.factors(shape) if is_plain(norm, GroupedNorm) else None

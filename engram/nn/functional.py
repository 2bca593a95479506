"""Norm, gate and causal convolution that the layouts' modules share.

Shapes: B sequences, T tokens, M streams, D hidden size, P channels, K taps, W context before T.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float | None) -> Tensor:
    """Normalise the last dimension by its root mean square, in float32 or better.

    The order of operations is that of `torch.nn.RMSNorm`, so that float32 results equal those of
    the reference modules.

    Args:
        x: Any float tensor ``[..., M, D]``.
        weight: One factor per stream and channel ``[M, D]``.
        eps: Added to the mean square; None for the machine epsilon of the computation's dtype.

    Returns:
        Normalised ``[..., M, D]``; float32 where `x` is of half precision.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(wide, wide.shape[-1:], eps=eps) * weight


def signed_sqrt_gate(keys: Tensor, queries: Tensor) -> Tensor:
    """Open a gate by how well keys and queries agree (reference demo; not in the paper).

    With a = keys . queries / sqrt(D), the gate is sigmoid(sqrt(max(|a|, 1e-6)) * sign(a)); exactly
    0.5 for a = 0.

    Args:
        keys: Normalised keys ``[B, T, M, D]``.
        queries: Normalised hidden states ``[B, T, M, D]``.

    Returns:
        Gates ``[B, T, M]`` in 0..1.
    """
    agreement = (keys * queries).sum(dim=-1) / math.sqrt(keys.shape[-1])
    return torch.sigmoid(agreement.abs().clamp_min(1e-6).sqrt() * agreement.sign())


def causal_conv(x: Tensor, weight: Tensor, dilation: int, window: Tensor | None = None) -> Tensor:
    """Convolve every channel with its own taps over the past.

    Args:
        x: Inputs ``[B, T, P]``.
        weight: Taps ``[P, 1, K]``, the last one for the present, as `torch.nn.Conv1d` has them.
        dilation: Tokens from one tap to the next.
        window: Inputs before `x` ``[B, <= W, P]``, W = (K - 1) * dilation; what is missing counts
            as zero.

    Returns:
        Outputs ``[B, T, P]``; float32 where `x` is of half precision.
    """
    reach = (weight.shape[-1] - 1) * dilation
    if window is not None:
        x = torch.cat([window.to(x.dtype), x], dim=1)
        reach -= window.shape[1]
    # A negative pad crops a window that is longer than the taps reach.
    context = F.pad(x, (0, 0, reach, 0))
    taps = weight.squeeze(1).t().to(torch.promote_types(x.dtype, torch.float32))
    return cast(Tensor, _ShiftedTaps.apply(context, taps, dilation))


class _ShiftedTaps(torch.autograd.Function):
    """The convolution as K shifted multiply-adds: half the time of a depthwise `Conv1d`.

    With its own backward pass, because autograd's makes a full-size copy for every shift.
    """

    @staticmethod
    def forward(ctx: Any, context: Tensor, taps: Tensor, dilation: int) -> Tensor:
        """Convolve ``[B, W + T, P]`` with ``[K, P]``."""
        ctx.save_for_backward(context, taps)
        ctx.dilation = dilation
        shifts = _shifts(context, taps, dilation)
        out = shifts[0] * taps[0]
        for shift, tap in zip(shifts[1:], taps[1:], strict=True):
            out.addcmul_(shift, tap)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of context and taps."""
        context, taps = ctx.saved_tensors
        grad_context = grad_taps = None
        if ctx.needs_input_grad[0]:
            wide = torch.zeros_like(context, dtype=taps.dtype)
            for shift, tap in zip(_shifts(wide, taps, ctx.dilation), taps, strict=True):
                shift.addcmul_(grad, tap)
            grad_context = wide.to(context.dtype)
        if ctx.needs_input_grad[1]:
            shifts = _shifts(context, taps, ctx.dilation)
            grad_taps = torch.stack([(shift * grad).sum(dim=(0, 1)) for shift in shifts])
        return grad_context, grad_taps, None


def _shifts(context: Tensor, taps: Tensor, dilation: int) -> list[Tensor]:
    """Return what each tap sees: K views ``[B, T, P]`` of the context, oldest first."""
    length = context.shape[1] - (len(taps) - 1) * dilation
    return [context[:, k * dilation : k * dilation + length] for k in range(len(taps))]

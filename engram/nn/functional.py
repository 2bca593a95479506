"""Norm, gate and causal convolution shared by the layouts' modules.

In eager mode, norm and convolution have their own backward passes, which cannot be differentiated
twice: on a CPU allocating memory costs more than the arithmetic, and autograd's passes allocate
several times as much. torch.compile sees plain operations, which it fuses itself.

Shapes: B sequences, T tokens, M streams, D hidden size, P channels, K taps, W context before T.
"""

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engram.nn.compat import records_a_graph
from engram.nn.gaps import closed_order, in_time, reorder


def rms_norm(x: Tensor, weight: Tensor, eps: float | None) -> Tensor:
    """Normalise the last dimension by its root mean square, in float32 or better.

    The order of operations is that of `torch.nn.RMSNorm`, so that float32 results are equal to
    those of the reference modules.

    Args:
        x: Any float tensor ``[..., M, D]``.
        weight: One factor per stream and channel ``[M, D]``.
        eps: Epsilon added to the mean square; None for the machine epsilon of the computation's
            dtype.

    Returns:
        Normalised ``[..., M, D]``; float32 where `x` is of half precision.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    eps = torch.finfo(wide.dtype).eps if eps is None else eps
    if records_a_graph():
        return F.rms_norm(wide, wide.shape[-1:], eps=eps) * weight
    weight = weight.to(wide.dtype)
    # In a step of decoding, a call of autograd takes as long as the arithmetic.
    if not torch.is_grad_enabled():
        return _normalise(wide, weight, eps)[0]
    return cast(Tensor, _RmsNorm.apply(wide, weight, eps))


def signed_sqrt_gate(keys: Tensor, queries: Tensor) -> Tensor:
    """Compute gates from the agreement of keys and queries (reference demo; not in the paper).

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


class CausalConv(nn.Module):
    """A depthwise causal convolution.

    Args:
        channels: Channels P.
        taps: Taps K per channel.
        dilation: Tokens from one tap to the next.
        factory: `device` and `dtype` of the weight ``[P, 1, K]``: the last tap is for the present,
            as `torch.nn.Conv1d` has it.
    """

    def __init__(self, channels: int, taps: int, dilation: int, factory: dict[str, Any]) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, 1, taps, **factory))

    def forward(
        self,
        x: Tensor,
        window: Tensor | None,
        since: Tensor | None,
        gaps: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Convolve every channel with its own taps, causally.

        Args:
            x: Inputs ``[B, T, P]``.
            window: Inputs before `x` ``[B, <= W, P]``, W = (K - 1) * dilation; missing ones are
                zero.
            since: Tokens since each token's document started ``[B, T]``: no tap reaches further
                back. None where a row is one document.
            gaps: False at tokens to skip ``[B, T]``, whose outputs are undefined; None if there are
                none.

        Returns:
            Outputs ``[B, T, P]``, float32 where `x` is of half precision; and the window
            ``[B, W, P]`` for the next tokens.
        """
        reach = (self.weight.shape[-1] - 1) * self.dilation
        missing = reach
        if window is not None:
            x = torch.cat([window.to(x.dtype), x], dim=1)
            missing -= window.shape[1]
        # A negative pad crops a window that is longer than the taps reach.
        context = F.pad(x, (0, 0, missing, 0)) if missing else x
        order = None
        if gaps is not None:
            # Skipped tokens go before the window, so that the others follow it without a gap.
            before = gaps.new_ones(len(gaps), reach)
            context = reorder(context, closed_order(torch.cat([before, gaps], dim=1)))
            order = closed_order(gaps)
            since = None if since is None else reorder(since, order)
        next_window = context[:, context.shape[1] - reach :]
        # A view would keep the inputs of the whole text alive. Recorded graphs must fit any length.
        if records_a_graph() or context.shape[1] > 2 * reach:
            next_window = next_window.clone()
        taps = self.weight.squeeze(1).t().to(torch.promote_types(x.dtype, torch.float32))
        if since is not None:
            out = _convolve_documents(context, taps, self.dilation, since)
        elif records_a_graph() or not torch.is_grad_enabled():
            out = _convolve(context, taps, self.dilation)
        else:
            out = cast(Tensor, _ShiftedTaps.apply(context, taps, self.dilation))
        return out if order is None else reorder(out, in_time(order)), next_window


class ConvPast(NamedTuple):
    """The past of one layer that later tokens need.

    Attributes:
        window: The convolution's inputs at the last W tokens ``[B, W, P]``, zero where there were
            none: all that the next tokens need.
        gates: Gates of the tokens of the call ``[B, T, M]``, zero at masked ones. The convolution's
            inputs can be computed again from them and the tokens' hash ids, which take less memory.
    """

    window: Tensor
    gates: Tensor


class _RmsNorm(torch.autograd.Function):
    """``x * rsqrt(mean(x^2) + eps) * weight``, saving only its inputs for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise ``[..., M, D]``."""
        out, rstd = _normalise(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of input and weight."""
        x, weight, rstd = ctx.saved_tensors
        normed = x * rstd
        scratch = normed * grad
        grad_weight = scratch.sum(dim=tuple(range(x.ndim - weight.ndim)))
        along = scratch.mul_(weight).mean(dim=-1, keepdim=True)
        grad_x = torch.mul(grad, weight, out=scratch)
        return grad_x.sub_(normed.mul_(along)).mul_(rstd), grad_weight, None


class _ShiftedTaps(torch.autograd.Function):
    """K shifted multiply-adds: half the time of a depthwise `Conv1d`."""

    @staticmethod
    def forward(ctx: Any, context: Tensor, taps: Tensor, dilation: int) -> Tensor:
        """Convolve ``[B, W + T, P]`` with ``[K, P]``."""
        ctx.save_for_backward(context, taps)
        ctx.dilation = dilation
        return _convolve(context, taps, dilation)

    @staticmethod
    @once_differentiable
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
            scratch = torch.empty_like(grad)
            shifts = _shifts(context, taps, ctx.dilation)
            grad_taps = torch.stack(
                [torch.mul(shift, grad, out=scratch).sum(dim=(0, 1)) for shift in shifts]
            )
        return grad_context, grad_taps, None


def _normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``x * rsqrt(mean(x^2) + eps) * weight`` and its middle factor."""
    out = x.square()
    rstd = out.mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
    return torch.mul(x, rstd, out=out).mul_(weight), rstd


def _convolve(context: Tensor, taps: Tensor, dilation: int) -> Tensor:
    """Convolve ``[B, W + T, P]`` with ``[K, P]``."""
    if context.shape[1] == (len(taps) - 1) * dilation + 1:
        # A step of decoding, where the overhead of an operation exceeds its arithmetic.
        return (context[:, ::dilation] * taps).sum(dim=1, keepdim=True)
    shifts = _shifts(context, taps, dilation)
    out = shifts[0] * taps[0]
    for shift, tap in zip(shifts[1:], taps[1:], strict=True):
        out.addcmul_(shift, tap)
    return out


def _convolve_documents(context: Tensor, taps: Tensor, dilation: int, since: Tensor) -> Tensor:
    """Convolve ``[B, W + T, P]`` with ``[K, P]``, without reaching into other documents."""
    shifts = _shifts(context, taps, dilation)
    out = shifts[-1] * taps[-1]
    for back in range(1, len(taps)):
        inside = (since >= back * dilation).unsqueeze(-1)
        out = out + shifts[-1 - back] * taps[-1 - back] * inside
    return out


def _shifts(context: Tensor, taps: Tensor, dilation: int) -> list[Tensor]:
    """Return the inputs of each tap: K views ``[B, T, P]`` of the context, oldest first."""
    length = context.shape[1] - (len(taps) - 1) * dilation
    return [context[:, k * dilation : k * dilation + length] for k in range(len(taps))]

"""Gate, norms and convolution of a training step on a CPU, as one compiled pass each way.

On a CPU a training step between the projections is bound by memory: as operations of torch it reads
and writes the batch some sixty times, here about ten times. Spans of sequences are shared by
threads; the result does not depend on their number.

Shapes: B sequences, T tokens, M streams, D hidden size, K taps, W tokens of the window, R - 1
tokens that the taps reach back.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from engram.errors import EngramWarning
from engram.nn.compat import records_a_graph
from engram.threads import kept_threads

# Fewer values than this take less time than loading the compiled passes is worth.
MIN_VALUES = 2**17
_NO_MASK = torch.empty(0, 0, dtype=torch.bool)
# Tokens of a unit of work. Sums of gradients follow it, so it does not depend on the threads.
_SPAN = 256


class ReadWeights(NamedTuple):
    """Weights and rules of a module's read.

    Attributes:
        norm_key: Weight of the norm of the keys ``[M, D]``.
        norm_query: Weight of the norm of the streams ``[M, D]``.
        norm_conv: Weight of the norm before the convolution ``[M, D]``.
        conv: Weight of the convolution ``[M * D, 1, K]``.
        eps: Epsilon of the norms of keys and streams; None for the machine epsilon.
        conv_eps: Epsilon of the norm before the convolution, likewise.
        dilation: Tokens from one tap to the next.
    """

    norm_key: Tensor
    norm_query: Tensor
    norm_conv: Tensor
    conv: Tensor
    eps: float | None
    conv_eps: float | None
    dilation: int


def fused_read(
    value: Tensor,
    keys: Tensor,
    streams: Tensor,
    keep: Tensor | None,
    window: Tensor | None,
    weights_of: Callable[[], ReadWeights | None],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Gate the value by keys and streams, and add its convolution.

    The result cannot be differentiated twice.

    Args:
        value: Projected memory ``[B, T, D]``.
        keys: Projected memory ``[B, T, M, D]``.
        streams: Hidden states ``[B, T, M, D]``.
        keep: False at masked tokens ``[B, T]``, or None. They count as tokens of the convolution,
            whose input is zero there.
        window: Inputs of the convolution before the first token ``[B, <= W, M * D]``, or None.
        weights_of: Returns the weights, or None where they cannot be used like this.

    Returns:
        What the module adds ``[B, T, M, D]``, the gates ``[B, T, M]``, and the inputs of the
        convolution at the last tokens ``[B, R - 1, M * D]``. None where this form is not for:
        other dtypes than float32, other devices than a CPU, without gradients, recorded graphs, and
        few values.
    """
    if records_a_graph() or not torch.is_grad_enabled() or keys.numel() < MIN_VALUES:
        return None
    weights = weights_of()
    if window is None:
        window = value.new_empty(len(value), 0, keys.shape[2:].numel())
    if weights is None or not _are_plain([value, keys, streams, window, *weights[:4]]):
        return None
    if not _works():
        return None
    n_streams, width = keys.shape[2:]
    machine_eps = torch.finfo(keys.dtype).eps
    eps, conv_eps = (machine_eps if it is None else it for it in (weights.eps, weights.conv_eps))
    out, gates, next_window = _FusedRead.apply(
        value,
        keys,
        streams,
        weights.norm_key,
        weights.norm_query,
        weights.norm_conv,
        weights.conv.view(n_streams, width, -1).transpose(1, 2),
        window.unflatten(-1, (n_streams, width)),
        _NO_MASK if keep is None else keep,
        (eps, conv_eps, weights.dilation),
    )
    return out, gates, next_window.flatten(2)


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors have values in float32 on a CPU, and some need gradients."""
    # Subclasses of tensors (shards, fakes) compute in their own way.
    types = (Tensor, torch.nn.Parameter)
    return any(it.requires_grad for it in tensors) and all(
        type(it) in types
        and it.device.type == "cpu"
        and it.dtype == torch.float32
        and it.layout == torch.strided
        for it in tensors
    )


class _FusedRead(torch.autograd.Function):
    """Both passes; the backward pass computes what lies between inputs and results again."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return results, gates and next window."""
        tensors, rules = [it.contiguous() for it in arguments[:-1]], arguments[-1]
        # Callers may write to their mask and window before the backward pass.
        tensors[-2:] = [it.clone() for it in tensors[-2:]]
        ctx.save_for_backward(*tensors)
        ctx.rules = rules
        ctx.set_materialize_grads(False)
        keys, taps = tensors[1], tensors[6]
        out = torch.empty_like(keys)
        gates = keys.new_empty(keys.shape[:3])
        reach = (taps.shape[1] - 1) * rules[2]
        next_window = keys.new_empty(len(keys), reach, *keys.shape[2:])
        sources, results = _sources(tensors), _arrays(out, gates, next_window)
        kernel = _kernels().read
        _share(keys.shape[:2], lambda _, span: kernel(sources, rules, span, results))
        return out, gates, next_window

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors but the mask."""
        tensors, rules = ctx.saved_tensors, ctx.rules
        value, keys, streams, norm_key, norm_query, norm_conv, taps, window, _ = tensors
        none = keys.new_empty(1, 0, 0, 0)
        out_gradient, gates_gradient, window_gradient = incoming
        arriving = _arrays(
            torch.zeros_like(keys) if out_gradient is None else out_gradient.contiguous(),
            none[0] if gates_gradient is None else gates_gradient.contiguous(),
            none if window_gradient is None else window_gradient.contiguous(),
        )
        needs = ctx.needs_input_grad
        gradients = (
            torch.empty_like(value),
            torch.empty_like(keys),
            torch.empty_like(streams) if needs[2] else none,
            torch.zeros_like(window) if needs[7] else none,
        )
        n_units = len(_spans(keys.shape[:2]))
        agreement, norm, tap = (x.new_zeros(n_units, *x.shape) for x in (norm_key, norm_conv, taps))
        sources, leaving = _sources(tensors), _arrays(*gradients)
        parts = list(zip(*_arrays(agreement, norm, tap), strict=True))
        kernel = _kernels().read_backward
        _share(
            keys.shape[:2],
            lambda unit, span: kernel(sources, rules, span, arriving, leaving, parts[unit]),
        )
        product = agreement.sum(dim=0)
        weights = (product * norm_query, product * norm_key, norm.sum(dim=0), tap.sum(dim=0))
        found = (*gradients[:3], *weights, gradients[3])
        return *(it if need else None for it, need in zip(found, needs, strict=False)), None, None


def _sources(tensors: Any) -> tuple[NDArray[Any], ...]:
    """Return the passes' inputs: the norms' weights of keys and streams act as their product."""
    value, keys, streams, norm_key, norm_query, norm_conv, taps, window, mask = tensors
    weight = norm_key * norm_query
    return _arrays(value, keys, streams, weight, norm_conv, taps, window, mask)


def _arrays(*tensors: Tensor) -> tuple[NDArray[Any], ...]:
    return tuple(tensor.detach().numpy() for tensor in tensors)


def _spans(positions: torch.Size) -> list[tuple[int, int, int]]:
    """Divide tokens ``[B, T]`` into units: sequence, first token, and the one after the last."""
    batch, length = positions
    starts = range(0, length, _SPAN)
    return [(b, at, min(at + _SPAN, length)) for b in range(batch) for at in starts]


def _share(positions: torch.Size, work: Callable[[int, tuple[int, int, int]], Any]) -> None:
    """Do the work on every unit, in as many threads as torch uses."""
    units = list(enumerate(_spans(positions)))
    left = iter(units)  # each thread takes the next: torch's own threads may still hold a core

    def take(left: Iterator[tuple[int, tuple[int, int, int]]]) -> None:
        for unit, span in left:
            work(unit, span)

    threads = min(torch.get_num_threads(), len(units))
    others = []
    if threads > 1:
        pool = kept_threads("engram-module", torch.get_num_threads() - 1)
        others = [pool.submit(take, left) for _ in range(threads - 1)]
    take(left)
    for other in others:
        other.result()


def _kernels() -> ModuleType:
    """Return the module of compiled passes, which takes a while to import."""
    from engram.nn import fused_kernels

    return fused_kernels


@cache
def _works() -> bool:
    """Whether both passes can be compiled, which is tried on two tokens; warns if they cannot."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return False
        value, weight = torch.ones(1, 2, 8, requires_grad=True), torch.ones(1, 8)
        streams, taps = torch.ones(1, 2, 1, 8), torch.ones(1, 1, 8)
        inputs = (value, streams, streams, weight, weight, weight, taps, streams[:, :0], _NO_MASK)
        _FusedRead.apply(*inputs, (1e-6, 1e-6, 1))[0].sum().backward()
    except Exception as error:  # numba can fail in many ways
        warnings.warn(
            f"Training without compiled passes, which is slower: {type(error).__name__}: {error}",
            EngramWarning,
            stacklevel=4,
        )
        return False
    return True

"""Masks: whether they mask tokens; moves those inside rows away, so that others are neighbours.

Shapes: B sequences, T tokens.
"""

import torch
from torch import Tensor

from engram.nn.compat import records_a_graph


def masks_some(keep: Tensor | None) -> bool:
    """Whether a mask masks tokens.

    Args:
        keep: False at masked positions, or None.

    Returns:
        False for None, and on a CPU, where examining values is cheap, for a mask that is all True.
    """
    if keep is None:
        return False
    return keep.device.type != "cpu" or records_a_graph() or not bool(keep.all())


def gaps_in(keep: Tensor | None, follows: bool) -> Tensor | None:
    """Return a mask if it has gaps to close, else None.

    Masked tokens before a row's first token are not a gap.

    Args:
        keep: False at masked positions ``[B, T]``, or None.
        follows: Whether the tokens follow those of an earlier call.

    Returns:
        The mask; None if closing gaps would change nothing. On devices other than a CPU, and in
        recorded graphs, values are not examined, and every mask counts as one with gaps.
    """
    if keep is None or keep.device.type != "cpu" or records_a_graph():
        return keep
    masked = ~keep
    gap = masked.any() if follows else (keep[:, :-1] & masked[:, 1:]).any()
    return keep if bool(gap) else None


def closed_order(keep: Tensor) -> Tensor:
    """Order the tokens of each row so that masked ones come first; otherwise by time.

    Args:
        keep: False at masked positions ``[B, T]``.

    Returns:
        The positions in that order ``[B, T]``.
    """
    return keep.to(torch.uint8).argsort(dim=1, stable=True)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Take the tokens of ``[B, T, ...]`` in the order ``[B, S]``."""
    # Not take_along_dim, which fixes T in a graph that is exported for any.
    index = order.view(*order.shape, *[1] * (x.ndim - 2))
    return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def in_time(order: Tensor) -> Tensor:
    """Return the order that undoes an order ``[B, T]``."""
    return order.argsort(dim=1)

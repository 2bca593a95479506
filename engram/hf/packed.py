"""Finds the documents of packed rows: by position ids that restart, or by their last token.

Shapes: B sequences, T tokens of a call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.hf.state import MemoryState
from engram.nn.compat import records_a_graph


def document_starts(
    addresses: Addresses,
    position_ids: Tensor | None,
    ids: Tensor,
    keep: Tensor | None,
    state: MemoryState | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Tell where documents start inside of rows.

    Args:
        addresses: The memory's constants, which say whether a token ends documents.
        position_ids: Positions ``[B, T]`` or ``[1, T]``; None when the call has none.
        ids: Token ids ``[B, T]``.
        keep: False at masked positions ``[B, T]``, or None. What is masked starts and ends nothing.
        state: The past, this call's tokens not yet among it; None without a cache.

    Returns:
        Positions to remember ``[B, T]``, None where they are not known; and True at the first token
        of every document but a row's first ``[B, T]``, None when there is none.
    """
    positions, starts = _restarts(position_ids, ids, keep, state)
    behind = _behind_ends(addresses, ids, keep, state)
    if behind is not None:
        starts = behind if starts is None else starts | behind
    # A compiled graph cannot look; it computes what a row of several documents takes.
    if starts is None or records_a_graph() or bool(starts.any()):
        return positions, starts
    return positions, None


def tokens_since_start(starts: Tensor) -> Tensor:
    """Count the tokens since each token's document started.

    Args:
        starts: True at the first token of every document but a row's first ``[B, T]``.

    Returns:
        Counts ``[B, T]``, large in a row's first document.
    """
    positions = torch.arange(starts.shape[1], device=starts.device)
    far = torch.iinfo(positions.dtype).max // 2
    last_start = torch.where(starts, positions, -far).cummax(dim=1).values
    return positions - last_start


def _restarts(
    position_ids: Tensor | None, ids: Tensor, keep: Tensor | None, state: MemoryState | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return positions, those of masked tokens filled in, and where they do not grow."""
    if position_ids is None or position_ids.ndim != 2:
        return None, None
    positions = position_ids.expand_as(ids)
    before = None if state is None else state.positions.last(1)
    if before is None:
        before = positions.new_full((len(positions), 1), -1)
    if keep is not None:
        # Masked tokens have any position: they take that of the last one that is not masked.
        known = torch.cat([before, positions], dim=1)
        place = torch.arange(1, known.shape[1], device=known.device) * keep
        positions = known.gather(1, place.cummax(dim=1).values)
    starts = positions <= torch.cat([before, positions[:, :-1]], dim=1)
    return positions, starts if keep is None else starts & keep


def _behind_ends(
    addresses: Addresses, ids: Tensor, keep: Tensor | None, state: MemoryState | None
) -> Tensor | None:
    """Mark tokens behind one that ends a document, where the config says that one does.

    Layouts whose hash always stops at such tokens (qwen_ple) are left as they were published: their
    convolution runs across.
    """
    if addresses.end_id is None or addresses.layout.ends_after_eos:
        return None
    ends = _ends(addresses.end_id, ids, keep)
    tokens = None if state is None or not state.tokens.length else state.tokens.last(1)
    if state is None or tokens is None:
        before = torch.zeros_like(ends[:, :1])
    else:
        before = _ends(addresses.end_id, tokens, state.keep.last(1))
    return torch.cat([before, ends[:, :-1]], dim=1)


def _ends(end_id: int, ids: Tensor, keep: Tensor | None) -> Tensor:
    ends = ids == end_id
    return ends if keep is None else ends & keep

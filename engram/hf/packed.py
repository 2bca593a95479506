"""Finds document starts in packed rows: by restarting position ids, or by end tokens.

Shapes: B sequences, T tokens of a call.
"""

import torch
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.hf.state import Past
from engram.nn.compat import records_a_graph


def document_starts(
    addresses: Addresses,
    position_ids: Tensor | None,
    ids: Tensor,
    keep: Tensor | None,
    past: Past | None = None,
) -> Tensor | None:
    """Find the starts of documents inside rows.

    Args:
        addresses: The memory's constants, with the token that ends documents, if any.
        position_ids: Positions ``[B, T]`` or ``[1, T]``, -1 where there are none; None when there
            are none at all. Other shapes, such as those for images, are ignored.
        ids: Token ids ``[B, T]``.
        keep: False at masked positions ``[B, T]``, or None. Masked tokens start or end nothing.
        past: The last unmasked token before the call; None if there is none.

    Returns:
        True at the first token of every document except a row's first ``[B, T]``; None when there
        is none.
    """
    starts = _restarts(position_ids, ids, keep, past)
    after = _after_ends(addresses, ids, keep, past)
    if after is not None:
        starts = after if starts is None else starts | after
    # A compiled graph cannot check values; it always computes as for several documents.
    several = starts is not None and (records_a_graph() or bool(starts.any()))
    return starts if several else None


def tokens_since_start(starts: Tensor, keep: Tensor | None) -> Tensor:
    """Count the tokens since each token's document started.

    Args:
        starts: True at the first token of every document except a row's first ``[B, T]``.
        keep: False at tokens that do not count ``[B, T]``; None if all do.

    Returns:
        Counts ``[B, T]``, large in a row's first document.
    """
    positions = torch.arange(starts.shape[1], device=starts.device)
    if keep is not None:
        positions = keep.to(starts.device).cumsum(dim=1)
    far = torch.iinfo(positions.dtype).max // 2
    last_start = positions.where(starts, -far).cummax(dim=1).values
    return positions - last_start


def _restarts(
    position_ids: Tensor | None, ids: Tensor, keep: Tensor | None, past: Past | None
) -> Tensor | None:
    """Mark tokens whose position is not after that of the last unmasked token."""
    if position_ids is None or position_ids.ndim != 2:
        return None
    positions = position_ids.expand_as(ids)
    before = positions.new_full((len(positions), 1), -1)
    if past is not None and past.positions is not None:
        before = _last(past.positions, past, -1)
    # Positions of masked tokens are arbitrary: they take that of the last unmasked token.
    known = _carried(torch.cat([before, positions], dim=1), keep)
    starts = (known[:, 1:] <= known[:, :-1]) & (positions >= 0)
    return starts if keep is None else starts & keep


def _after_ends(
    addresses: Addresses, ids: Tensor, keep: Tensor | None, past: Past | None
) -> Tensor | None:
    """Mark tokens after an end of a document, if the config defines a token for it.

    Layouts whose hash always stops at such tokens (qwen_ple) stay as published: their convolution
    runs across.
    """
    if addresses.end_id is None or addresses.layout.ends_after_eos:
        return None
    ends = ids == addresses.end_id
    before = torch.zeros_like(ends[:, :1])
    if past is not None:
        before = _last(past.tokens == addresses.end_id, past, 0)
    starts = _carried(torch.cat([before, ends], dim=1), keep)[:, :-1]
    return starts if keep is None else starts & keep


def _last(values: Tensor, past: Past, default: int) -> Tensor:
    """Return a value of the last token before the call ``[B, 1]``, or the default."""
    last = values[:, -1:]
    if past.keep is None:
        return last
    return last.where(past.keep[:, -1:], torch.full_like(last, default))


def _carried(values: Tensor, keep: Tensor | None) -> Tensor:
    """Give masked tokens the value of the last unmasked token.

    Args:
        values: Values of the token before the call and of its own ``[B, 1 + T]``.
        keep: False at masked positions ``[B, T]``, or None.
    """
    if keep is None:
        return values
    place = torch.arange(1, values.shape[1], device=values.device) * keep
    return values.gather(1, torch.cat([torch.zeros_like(place[:, :1]), place.cummax(1).values], 1))

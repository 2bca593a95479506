"""Packed documents by their last token: what follows it starts a document.

Shapes: B sequences, T tokens of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engram.addressing.addresses import Addresses

if TYPE_CHECKING:
    from engram.hf.state import MemoryState


def starts_behind_ends(
    addresses: Addresses,
    starts: Tensor | None,
    ids: Tensor,
    keep: Tensor | None,
    state: MemoryState | None,
) -> Tensor | None:
    """Add the documents that start behind tokens that end documents, where the config says so.

    Layouts whose hash always stops at such tokens (qwen_ple) are left as they were published: their
    convolution runs across.

    Args:
        addresses: The memory's constants.
        starts: Documents that start where position ids say so ``[B, T]``, or None.
        ids: Token ids of the call ``[B, T]``.
        keep: False at masked positions ``[B, T]``, or None; a masked token ends nothing.
        state: The past, this call's tokens not yet among it; None without a cache.

    Returns:
        True at the first token of every document but a row's first ``[B, T]``; None when there is
        none.
    """
    if addresses.end_id is None or addresses.layout.ends_after_eos:
        return starts
    ends = _ends(addresses.end_id, ids, keep)
    before = None
    tokens = None if state is None or not state.tokens.length else state.tokens.last(1)
    if state is not None and tokens is not None:
        before = _ends(addresses.end_id, tokens, state.keep.last(1))
    if before is None:
        before = torch.zeros_like(ends[:, :1])
    behind = torch.cat([before, ends[:, :-1]], dim=1)
    if starts is not None:
        return starts | behind
    # A compiled graph cannot look; it computes what a row of several documents takes.
    return behind if torch.compiler.is_compiling() or bool(behind.any()) else None


def _ends(end_id: int, ids: Tensor, keep: Tensor | None) -> Tensor:
    ends = ids == end_id
    return ends if keep is None else ends & keep.bool()

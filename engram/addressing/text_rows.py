"""The n-grams that end at each token of a text, and the rows that they read.

Shapes: T tokens, N the highest n-gram order, L layers, O = N - 1 orders, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids, look_back

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TextNgrams:
    """The n-grams of a text.

    Attributes:
        slots: Hashed ids that each position reads, the newest first ``[T, N]``.
        first: Position of the first token of the n-gram that ends at each position ``[T, O]``:
            later than ``t + 1 - order`` where looking back is blocked, and ``t + 1`` at a token
            that the memory treats as masked.
    """

    slots: Ids
    first: Ids


@dataclass(frozen=True, eq=False)
class TextRows:
    """The rows that a text reads.

    Attributes:
        hash_ids: Rows within each head's part ``[T, L, O, H]``.
        rows: The same as rows of the layers' tables ``[T, L, O, H]``.
    """

    hash_ids: Ids
    rows: Ids


def ngrams_of(addresses: Addresses, ids: ArrayLike, starts: Mask | None = None) -> TextNgrams:
    """Find the n-grams of a text.

    Args:
        addresses: The memory's constants, with their token map.
        ids: Token ids ``[T]``; the memory treats those of tokens that its tokenizer did not have
            as masked.
        starts: True where a document starts ``[T]``; None when only position 0 does.
    """
    ids, known = readable(addresses, ids)
    slots = look_back(addresses, ids[None], known[None], _row(starts))[0][0]
    after = np.arange(1, len(ids) + 1)
    ends = ~known if addresses.end_id is None else ~known | (ids == addresses.end_id)
    # An end blocks looking back for the positions after it, a start for its own, too.
    begin = np.where(ends, after, 0)
    reached = np.concatenate([[0], np.maximum.accumulate(begin)])[:-1]
    if starts is not None:
        reached = np.maximum(reached, np.maximum.accumulate(np.where(starts, after - 1, 0)))
    first = np.maximum(reached[:, None], after[:, None] - np.array(addresses.orders))
    return TextNgrams(slots, np.where(known[:, None], first, after[:, None]).astype(np.int64))


def rows_of(addresses: Addresses, ids: ArrayLike, starts: Mask | None = None) -> TextRows:
    """Find the rows that a text reads.

    Args:
        addresses: The memory's constants, with their token map.
        ids: Token ids ``[T]``, see `ngrams_of`.
        starts: True where a document starts ``[T]``; None when only position 0 does.
    """
    ids, known = readable(addresses, ids)
    shape = (len(addresses.layers), addresses.n_orders, addresses.n_heads)
    hashed = hash_ids(addresses, ids[None], known[None], _row(starts))[0][0]
    hashed = hashed.reshape(len(ids), *shape)
    offsets = np.array([layer.offsets for layer in addresses.layers]).reshape(shape)
    return TextRows(hashed, hashed + offsets)


def readable(addresses: Addresses, ids: ArrayLike) -> tuple[Ids, Mask]:
    """Find the tokens that a memory can read: those that its tokenizer had when it was attached.

    Args:
        addresses: The memory's constants.
        ids: Token ids, of any shape.

    Returns:
        Ids that can be hashed, those of other tokens replaced; and a mask, False at these.
    """
    ids = np.asarray(ids, dtype=np.int64)
    known = ids < addresses.raw_vocab_size
    return np.where(known, ids, 0), known


def _row(starts: Mask | None) -> Mask | None:
    return None if starts is None else starts[None]

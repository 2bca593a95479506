"""Compiled kernels for cache curves; imported only when used.

Shapes: T tokens, C columns, n look-ups.
"""

from typing import Any

import numpy as np

from engram.corpus.counts.count_kernels import inner, kernel

_ONE = np.uint64(1)
_ALL = np.uint64(2**64 - 1)
_WORD_LOW = np.int64(63)
_PAIRS = np.uint64(0x5555555555555555)
_FOURS = np.uint64(0x3333333333333333)
_EIGHTS = np.uint64(0x0F0F0F0F0F0F0F0F)
_BYTES = np.uint64(0x0101010101010101)


@kernel
def number_rows(ids: Any, numbers: Any, first: Any) -> Any:
    """Number the rows of one head from `first`, in the order of their first look-up.

    Args:
        ids: Rows of the head, int ``[T]``; replaced by their numbers.
        numbers: -1 for every row of the head, int32; written to.
        first: The first number.

    Returns:
        The number after the last.
    """
    following = first
    for t in range(len(ids)):
        row = ids[t]
        if numbers[row] < 0:
            numbers[row] = following
            following += 1
        ids[t] = numbers[row]
    return following


@kernel
def stack_distances(rows: Any, warm_from: Any, last: Any, bits: Any, tree: Any, hits: Any) -> None:
    """Count look-ups by the smallest LRU cache that would have had their row.

    Its size is one more than the distinct rows read since the row was last read (Mattson 1970). A
    bit marks the last look-up of every row; a Fenwick tree over the words of bits, small enough for
    the processor's cache, counts the bits before a position.

    Args:
        rows: Row of each look-up, numbered from 0, int ``[n]``.
        warm_from: Look-ups from here on are also counted on their own.
        last: -1 for every row, int32; written to.
        bits: Zeros, uint64 ``[ceil(n / 64)]``.
        tree: Zeros, int32 ``[words + 1]``.
        hits: Zeros, int64 ``[2, rows + 1]``: by size, of all look-ups and of those from
            `warm_from` on; the first look-up of a row is not a hit, and is not counted.
    """
    n_bits = 0
    for t in range(len(rows)):
        row = rows[t]
        before = np.int64(last[row])
        if before >= 0:
            word = before >> 6
            place = np.uint64(before & _WORD_LOW)
            # Bits up to and including the row's own.
            older = _count_bits(bits[word] & (_ALL >> (np.uint64(63) - place)))
            i = word
            while i > 0:
                older += np.int64(tree[i])
                i &= i - 1
            size = n_bits - older + 1
            hits[0, size] += 1
            hits[1, size] += t >= warm_from
            bits[word] ^= _ONE << place
            _add(tree, word, -1)
            n_bits -= 1
        bits[t >> 6] |= _ONE << np.uint64(t & _WORD_LOW)
        _add(tree, t >> 6, 1)
        n_bits += 1
        last[row] = t


@inner
def _add(tree: Any, word: Any, change: Any) -> None:
    i = word + 1
    while i < len(tree):
        tree[i] += change
        i += i & -i


@inner
def _count_bits(word: Any) -> Any:
    word -= word >> _ONE & _PAIRS
    word = (word & _FOURS) + (word >> np.uint64(2) & _FOURS)
    word = (word + (word >> np.uint64(4))) & _EIGHTS
    return np.int64((word * _BYTES) >> np.uint64(56))

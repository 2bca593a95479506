"""Compiled kernels for rows and cache curves; imported only when used.

Shapes: n windows or look-ups, H heads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit  # noqa: TID253 - this module is itself imported only when needed

from engram.storage.machine_code import compiled

_CHUNK = 2048
_ONE = np.uint64(1)
_ALL = np.uint64(2**64 - 1)
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_WORD_BITS = np.uint64(6)
_WORD_LOW = np.uint64(63)
_PAIRS = np.uint64(0x5555555555555555)
_FOURS = np.uint64(0x3333333333333333)
_EIGHTS = np.uint64(0x0F0F0F0F0F0F0F0F)
_BYTES = np.uint64(0x0101010101010101)
# 2^64 divided by the golden ratio (Knuth): its upper bits depend on all of a number's.
_SCATTER, _SCATTER_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(24)

_OPTIONS = {"nogil": True, "error_model": "numpy"}
_kernel = compiled(**_OPTIONS)
# Called by kernels, and inlined into each.
_inner: Callable[[Callable[..., Any]], Any] = njit(**_OPTIONS)


@_kernel
def mark_rows(slots: Any, multipliers: Any, primes: Any, bases: Any, bits: Any) -> None:
    """Hash the windows of one layer and order, and set the bits of the rows hit.

    Args:
        slots: Ids of the windows, uint32 ``[order, n]``.
        multipliers: Multipliers of the layer, uint64 ``[order]``.
        primes: Primes of the heads, uint64 ``[H]``.
        bases: First word of each head's bitmap, int64 ``[H]``.
        bits: The bitmaps, uint64; bit ``row % 64`` of word ``row // 64``.
    """
    mixes = np.empty(_CHUNK, dtype=np.uint64)
    rows = np.empty(_CHUNK, dtype=np.uint64)
    for begin in range(0, slots.shape[1], _CHUNK):
        size = min(_CHUNK, slots.shape[1] - begin)
        for i in range(size):
            mixes[i] = np.uint64(slots[0, begin + i]) * multipliers[0]
        for k in range(1, slots.shape[0]):
            for i in range(size):
                mixes[i] ^= np.uint64(slots[k, begin + i]) * multipliers[k]
        _mark(mixes[:size], primes, bases, bits, rows)


@_kernel
def mark_mixes(mixes: Any, primes: Any, bases: Any, bits: Any) -> None:
    """Set the bits of the rows of windows that were mixed already; see `mark_rows`.

    Args:
        mixes: Mixes of the windows, uint64 ``[n]``.
        primes: Primes of the heads, uint64 ``[H]``.
        bases: First word of each head's bitmap, int64 ``[H]``.
        bits: The bitmaps.
    """
    rows = np.empty(_CHUNK, dtype=np.uint64)
    for begin in range(0, len(mixes), _CHUNK):
        _mark(mixes[begin : begin + _CHUNK], primes, bases, bits, rows)


@_inner
def _mark(mixes: Any, primes: Any, bases: Any, bits: Any, rows: Any) -> None:
    """Mark a chunk head by head: a head's bitmap is small enough to stay in cache."""
    for head in range(len(primes)):
        _remainders(mixes, primes[head], rows)
        for i in range(len(mixes)):
            word = bases[head] + np.int64(rows[i] >> _WORD_BITS)
            bits[word] |= _ONE << (rows[i] & _WORD_LOW)


@_inner
def _remainders(mixes: Any, prime: Any, rows: Any) -> None:
    """Compute remainders by a prime without divisions (Barrett 1986), of mixes below 2^63."""
    bar = _ALL // prime  # floor(2^64 / prime), but one less for 2, which is close enough
    low_bar, high_bar = bar & _LOW, bar >> _HALF
    for i in range(len(mixes)):
        low, high = mixes[i] & _LOW, mixes[i] >> _HALF
        quotient = high * high_bar
        quotient += (low * high_bar) >> _HALF
        quotient += (high * low_bar) >> _HALF
        rest = mixes[i] - quotient * prime
        rest = min(rest, rest - prime - prime)
        rows[i] = min(rest, rest - prime)


@_kernel
def fill_rows(mixes: Any, prime: Any, taken: Any) -> Any:
    """Count the n-grams of each row of one head, until every row has two.

    Args:
        mixes: Mixes of distinct n-grams, uint64 ``[n]``.
        prime: Rows of the head, uint64.
        taken: Zeros, uint8 ``[prime]``; becomes the number of n-grams of each row, 2 for more.

    Returns:
        Whether every row has two or more.
    """
    rows = np.empty(_CHUNK, dtype=np.uint64)
    filled = 0
    for begin in range(0, len(mixes), _CHUNK):
        chunk = mixes[begin : begin + _CHUNK]
        _remainders(chunk, prime, rows)
        for i in range(len(chunk)):
            taken[rows[i]] += taken[rows[i]] < 2
        while filled < len(taken) and taken[filled] == 2:
            filled += 1
        if filled == len(taken):
            return True
    return False


@_kernel
def count_alone(mixes: Any, prime: Any, taken: Any, alone: Any) -> None:
    """Add one to the counts of the n-grams that are alone in their row of one head.

    Args:
        mixes: Mixes of distinct n-grams, uint64 ``[n]``.
        prime: Rows of the head, uint64.
        taken: The number of n-grams of each row, from `fill_rows`.
        alone: Increased by one where the row has no other, unsigned ``[n]``.
    """
    rows = np.empty(_CHUNK, dtype=np.uint64)
    for begin in range(0, len(mixes), _CHUNK):
        chunk = mixes[begin : begin + _CHUNK]
        _remainders(chunk, prime, rows)
        for i in range(len(chunk)):
            alone[begin + i] += taken[rows[i]] == 1


@_kernel
def keep_suspects(mixes: Any, once: Any, twice: Any) -> Any:
    """Move mixes that may be equal to another one to the front.

    Args:
        mixes: Mixes, uint64 ``[n]``; written to.
        once: Zeros, uint64, a power of two of them: becomes a bit for each mix, which others share.
        twice: Zeros, as many; becomes the bits of several mixes.

    Returns:
        The number of mixes at the front: all that have the bit of another, so all that are equal to
        one.
    """
    last_word = np.uint64(len(once) - 1)
    for i in range(len(mixes)):
        scattered = mixes[i] * _SCATTER >> _SCATTER_SHIFT
        word, bit = scattered >> _WORD_BITS & last_word, _ONE << (scattered & _WORD_LOW)
        twice[word] |= once[word] & bit
        once[word] |= bit
    kept = 0
    for i in range(len(mixes)):
        scattered = mixes[i] * _SCATTER >> _SCATTER_SHIFT
        word, bit = scattered >> _WORD_BITS & last_word, _ONE << (scattered & _WORD_LOW)
        mixes[kept] = mixes[i]
        kept += (twice[word] & bit) != 0
    return kept


@_kernel
def number_rows(ids: Any, numbers: Any, first: Any) -> Any:
    """Number the rows of one head from `first`, in the order of their first look-up.

    Args:
        ids: Rows of the head, int ``[n]``; replaced by their numbers.
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


@_kernel
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
            place = np.uint64(before & 63)
            # Bits up to and including the row's own.
            older = _count_bits(bits[word] & (_ALL >> (_WORD_LOW - place)))
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
        bits[t >> 6] |= _ONE << np.uint64(t & 63)
        _add(tree, t >> 6, 1)
        n_bits += 1
        last[row] = t


@_inner
def _add(tree: Any, word: Any, change: Any) -> None:
    i = word + 1
    while i < len(tree):
        tree[i] += change
        i += i & -i


@_inner
def _count_bits(word: Any) -> Any:
    word -= word >> _ONE & _PAIRS
    word = (word & _FOURS) + (word >> np.uint64(2) & _FOURS)
    word = (word + (word >> np.uint64(4))) & _EIGHTS
    return np.int64((word * _BYTES) >> np.uint64(56))

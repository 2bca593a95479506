"""Compiled kernels for statistics and cache curves; imported only when used.

Shapes: N the highest n-gram order, n tokens of a batch, or look-ups, H heads.
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
_SCATTER_SHIFT = np.uint64(33)
_SCATTER_1 = np.uint64(0xFF51AFD7ED558CCD)
_SCATTER_2 = np.uint64(0xC4CEB9FE1A85EC53)
_GATHER_1 = np.uint64(pow(0xFF51AFD7ED558CCD, -1, 2**64))
_GATHER_2 = np.uint64(pow(0xC4CEB9FE1A85EC53, -1, 2**64))
_PAIRS = np.uint64(0x5555555555555555)
_FOURS = np.uint64(0x3333333333333333)
_EIGHTS = np.uint64(0x0F0F0F0F0F0F0F0F)
_BYTES = np.uint64(0x0101010101010101)

_OPTIONS = {"nogil": True, "error_model": "numpy"}
_kernel = compiled(**_OPTIONS)
# Called by kernels, and inlined into each.
_inner: Callable[[Callable[..., Any]], Any] = njit(**_OPTIONS)


@_kernel
def lay_windows(ids: Any, boundaries: Any, begin: Any, end: Any, fill: Any, slots: Any) -> None:
    """Return the ids that positions begin..end-1 read, like `addressing.reference.look_back`.

    Args:
        ids: Ids of the vocabulary that is hashed, of whole documents, uint32 ``[n]``.
        boundaries: Starts of the documents, and the end of the last, ``[documents + 1]``.
        begin: First position.
        end: Position after the last.
        fill: The id that is read before a document.
        slots: Output, uint32 ``[N, end - begin]``: slot k holds the id k positions back.
    """
    document = np.searchsorted(boundaries, begin, side="right") - 1
    for t in range(begin, end):
        while boundaries[document + 1] <= t:
            document += 1
        slots[0, t - begin] = ids[t]
        for k in range(1, slots.shape[0]):
            slots[k, t - begin] = fill if t - k < boundaries[document] else ids[t - k]


@_kernel
def mark_rows(slots: Any, multipliers: Any, primes: Any, bases: Any, bits: Any) -> None:
    """Hash the windows of one layer and order, and set the bits of the rows hit.

    A head's bitmap is small enough to stay in cache, so a chunk of mixes is processed head by head.
    Remainders are computed as in `addressing.kernel`.

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
        for head in range(len(primes)):
            prime = primes[head]
            bar = _ALL // prime  # floor(2^64 / prime), but one less for 2, which is close enough
            low_bar, high_bar = bar & _LOW, bar >> _HALF
            for i in range(size):
                low, high = mixes[i] & _LOW, mixes[i] >> _HALF
                quotient = high * high_bar
                quotient += (low * high_bar) >> _HALF
                quotient += (high * low_bar) >> _HALF
                rest = mixes[i] - quotient * prime
                rest = min(rest, rest - prime - prime)
                rows[i] = min(rest, rest - prime)
            for i in range(size):
                word = bases[head] + np.int64(rows[i] >> _WORD_BITS)
                bits[word] |= _ONE << (rows[i] & _WORD_LOW)


@_kernel
def pack_windows(slots: Any, radix: Any, parts: Any, words: Any, part_of: Any) -> None:
    """Turn windows into numbers, without loss, scattered over 64 bits.

    Args:
        slots: Ids of the windows, uint32 ``[order, n]``.
        radix: Size of the vocabulary.
        parts: Number of parts; words are unique among the windows of a part.
        words: Output, uint64 ``[n]``.
        part_of: Output, uint8 ``[n]``.
    """
    for t in range(slots.shape[1]):
        first = slots[0, t]
        word = np.uint64(first // parts)
        for k in range(1, slots.shape[0]):
            word = word * np.uint64(radix) + np.uint64(slots[k, t])
        words[t] = _scatter(word)
        part_of[t] = first % parts


@_kernel
def hash_windows(slots: Any, words: Any) -> None:
    """Turn windows that do not fit into 64 bits into hashes, uint64 ``[n]``."""
    for t in range(slots.shape[1]):
        word = np.uint64(0)
        for k in range(slots.shape[0]):
            word = _scatter(word ^ np.uint64(slots[k, t] + 1))
        words[t] = word


@_kernel
def mix_words(words: Any, part: Any, radix: Any, parts: Any, multipliers: Any, mixes: Any) -> None:
    """Turn words of `pack_windows` back into windows, and mix those for the heads of a layer.

    Args:
        words: Words of one part, uint64 ``[n]``.
        part: Index of the part.
        radix: Size of the vocabulary.
        parts: Number of parts.
        multipliers: Multipliers of the layer, uint64 ``[order]``.
        mixes: Output, uint64 ``[n]``.
    """
    base = np.uint64(radix)
    for t in range(len(words)):
        word, mix = _gather(words[t]), np.uint64(0)
        for k in range(len(multipliers) - 1, 0, -1):
            mix ^= word % base * multipliers[k]
            word //= base
        mixes[t] = mix ^ (word * np.uint64(parts) + np.uint64(part)) * multipliers[0]


@_inner
def _scatter(word: Any) -> Any:
    """Apply the finaliser of MurmurHash3, which is a bijection."""
    word = (word ^ word >> _SCATTER_SHIFT) * _SCATTER_1
    word = (word ^ word >> _SCATTER_SHIFT) * _SCATTER_2
    return word ^ word >> _SCATTER_SHIFT


@_inner
def _gather(word: Any) -> Any:
    """Undo `_scatter`: an xor with a shift of more than half is its own inverse."""
    word = (word ^ word >> _SCATTER_SHIFT) * _GATHER_2
    word = (word ^ word >> _SCATTER_SHIFT) * _GATHER_1
    return word ^ word >> _SCATTER_SHIFT


@_kernel
def drop_repeats(words: Any, counts: Any) -> Any:
    """Move the distinct values of a sorted array to its front, and return how many there are.

    Args:
        words: The array, uint64 ``[n]``.
        counts: Output: the frequency of each distinct value, uint32 ``[n]``.
    """
    count, first = 0, 0
    for i in range(len(words)):
        words[count] = words[i]
        counts[count] = i + 1 - first
        is_last = i + 1 == len(words) or words[i + 1] != words[i]
        first = i + 1 if is_last else first
        count += is_last
    return count


@_kernel
def merge(
    one: Any, one_counts: Any, other: Any, other_counts: Any, merged: Any, counts: Any
) -> Any:
    """Merge two sorted arrays of distinct values into a third, and return its length.

    Counts of equal values are added, and limited to the largest uint32.
    """
    i = j = count = 0
    while i < len(one) and j < len(other):
        left, right = one[i], other[j]
        from_one, from_other = left <= right, right <= left
        merged[count] = min(left, right)
        total = np.uint64(one_counts[i]) * np.uint64(from_one)
        total += np.uint64(other_counts[j]) * np.uint64(from_other)
        counts[count] = min(total, _LOW)
        # Equal values advance both, without a branch that depends on the values.
        i += from_one
        j += from_other
        count += 1
    for rest, rest_counts, start in ((one, one_counts, i), (other, other_counts, j)):
        size = len(rest) - start
        merged[count : count + size] = rest[start:]
        counts[count : count + size] = rest_counts[start:]
        count += size
    return count


@_kernel
def mark_shared_rows(mixes: Any, prime: Any, taken: Any, shared: Any) -> None:
    """Add one to the counts of the n-grams that share their row of one head with another.

    Args:
        mixes: Mixes of distinct n-grams, uint64 ``[n]``.
        prime: Rows of the head, uint64.
        taken: Zeros, uint8 ``[prime]``; written to.
        shared: Increased by one where the row is shared, uint8 ``[n]``.
    """
    for t in range(len(mixes)):
        row = mixes[t] % prime
        taken[row] += taken[row] < 2
    for t in range(len(mixes)):
        shared[t] += taken[mixes[t] % prime] == 2


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

"""Compiled kernels for sets of distinct windows; imported only when used.

Shapes: N the highest n-gram order, n windows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types  # noqa: TID253 - itself imported only when needed
from numba.extending import intrinsic  # noqa: TID253

from engram.storage.machine_code import compiled

# Windows at a time: their words stay in the processor's first caches.
_CHUNK = 2**12
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_ALL = np.uint64(2**64 - 1)
_MOST_TIMES = np.uint32(2**32 - 1)
_SCATTER_SHIFT = np.uint64(33)
_SCATTER_1 = np.uint64(0xFF51AFD7ED558CCD)
_SCATTER_2 = np.uint64(0xC4CEB9FE1A85EC53)
_GATHER_1 = np.uint64(pow(0xFF51AFD7ED558CCD, -1, 2**64))
_GATHER_2 = np.uint64(pow(0xC4CEB9FE1A85EC53, -1, 2**64))

_OPTIONS = {"nogil": True, "error_model": "numpy"}
_kernel = compiled(**_OPTIONS)
# Called by kernels, and inlined into each.
_inner: Callable[[Callable[..., Any]], Any] = njit(**_OPTIONS)


@_kernel
def lay_windows(ids: Any, boundaries: Any, begin: Any, end: Any, fill: Any, slots: Any) -> None:
    """Lay out the ids that positions begin..end-1 read, like `addressing.reference.look_back`.

    Args:
        ids: Ids of the vocabulary that is hashed, of whole documents, uint32 ``[n]``.
        boundaries: Starts of the documents, and the end of the last, ``[documents + 1]``.
        begin: First position.
        end: Position after the last.
        fill: The id that is read before a document.
        slots: Output, uint32 ``[N, end - begin]``: slot k holds the id k positions back.
    """
    _lay(ids, boundaries, begin, end, fill, slots)


@_inner
def _lay(ids: Any, boundaries: Any, begin: Any, end: Any, fill: Any, slots: Any) -> None:
    for k in range(slots.shape[0]):
        # Indices of a slice are not compared with zero: several times as fast.
        first = min(max(begin, k), end)
        source, target = ids[first - k : end - k], slots[k, first - begin :]
        for t in range(len(source)):
            target[t] = source[t]
    # The first k positions of a document read the fill, whether or not it ends before.
    document = np.searchsorted(boundaries, begin - slots.shape[0])
    while document < len(boundaries) and boundaries[document] < end:
        start = boundaries[document]
        for k in range(1, slots.shape[0]):
            for t in range(max(begin, start), min(end, start + k)):
                slots[k, t - begin] = fill
        document += 1


@_inner
def _pack(slots: Any, radix: Any, parts: Any, words: Any, part_of: Any) -> None:
    """Turn windows into numbers, without loss, scattered over 64 bits.

    Args:
        slots: Ids of the windows, uint32 ``[order, n]``.
        radix: Size of the vocabulary.
        parts: Number of parts; words are unique among the windows of a part.
        words: Output, uint64 ``[n]``.
        part_of: Output, uint8 ``[n]``.
    """
    base = np.uint64(radix)
    if parts == 1:  # without divisions
        for t in range(slots.shape[1]):
            words[t] = slots[0, t]
            part_of[t] = 0
    else:
        for t in range(slots.shape[1]):
            words[t] = slots[0, t] // parts
            part_of[t] = slots[0, t] % parts
    for k in range(1, slots.shape[0]):
        for t in range(slots.shape[1]):
            words[t] = words[t] * base + np.uint64(slots[k, t])
    for t in range(slots.shape[1]):
        words[t] = _scatter(words[t])


@_inner
def _hash(slots: Any, words: Any) -> None:
    """Turn windows that do not fit into 64 bits into hashes, uint64 ``[n]``."""
    for t in range(slots.shape[1]):
        word = np.uint64(0)
        for k in range(slots.shape[0]):
            word = _scatter(word ^ np.uint64(slots[k, t] + 1))
        words[t] = word


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@_kernel
def count_windows(
    ids: Any,
    boundaries: Any,
    begin: Any,
    end: Any,
    fill: Any,
    order: Any,
    radix: Any,
    parts: Any,
    dropped: Any,
    piles: Any,
) -> Any:
    """Deal windows to piles, as words, and count those of piles that are full.

    All of it is one call: a thread may wait for Python's lock after each.

    Args:
        ids: See `lay_windows`.
        boundaries: See `lay_windows`.
        begin: First position.
        end: Position after the last.
        fill: See `lay_windows`.
        order: Tokens of a window.
        radix: Size of the vocabulary.
        parts: Number of parts, see `_pack`; 0 where windows do not fit into words and are hashed.
        dropped: Words with any of these bits are left out, uint64.
        piles: See `distinct.Piles`; written to.

    Returns:
        Position after the last window dealt, and a full pile whose table is full, too; -1 if there
        is none, and all windows are dealt.
    """
    buffer = np.empty(order * _CHUNK, np.uint32)
    words, part_of = np.empty(_CHUNK, np.uint64), np.zeros(_CHUNK, np.uint8)
    for first in range(begin, end, _CHUNK):
        size = min(_CHUNK, end - first)
        slots = buffer[: order * size].reshape(order, size)
        _lay(ids, boundaries, first, first + size, fill, slots)
        if parts:
            _pack(slots, radix, parts, words, part_of)
        else:
            _hash(slots, words)
        dealt, full = _deal(words[:size], part_of, dropped, piles)
        if full >= 0:
            return first + dealt, full
    return end, -1


@_inner
def _deal(words: Any, part_of: Any, dropped: Any, piles: Any) -> Any:
    """Deal words to piles by their part and first bits; see `count_windows`."""
    shift = np.uint64(64 - piles.bits)
    room = piles.words.shape[1]
    for t in range(len(words)):
        word = words[t]
        if word & dropped:
            continue
        pile = np.int64(word >> shift) + (np.int64(part_of[t]) << piles.bits)
        size = piles.sizes[pile]
        piles.words[pile, size] = word
        piles.sizes[pile] = size + 1
        if size + 1 == room and not _count_pile(pile, piles):
            return t + 1, pile
    return len(words), -1


@_kernel
def count_piles(first: Any, end: Any, piles: Any) -> Any:
    """Count the words of piles in their hash tables, until a table has too many.

    Args:
        first: The first pile.
        end: The pile after the last.
        piles: See `distinct.Piles`; written to.

    Returns:
        The pile whose table has too many; `end` if there is none.
    """
    for pile in range(first, end):
        if not _count_pile(pile, piles):
            return pile
    return end


@_inner
def _count_pile(pile: Any, piles: Any) -> Any:
    """Count the words of a pile; return whether the table had room for them."""
    capacity, most = (piles.places[pile, 2],), piles.places[pile, 3]
    keys = carray(_pointer(piles.places[pile, 0]), capacity, np.uint64)
    times = carray(_pointer(piles.places[pile, 1]), capacity, np.uint32)
    for i in range(piles.counted[pile], piles.sizes[pile]):
        word = piles.words[pile, i]
        place = _place(word, piles.bits, keys, times)
        if times[place] == 0:
            if piles.used[pile] == most:
                piles.counted[pile] = i
                return False
            keys[place] = word
            piles.used[pile] += 1
        times[place] += times[place] < _MOST_TIMES
    piles.sizes[pile] = piles.counted[pile] = 0
    return True


@_kernel
def add_counts(words: Any, counts: Any, dropped: Any, bits: Any, keys: Any, times: Any) -> Any:
    """Add words with their frequencies to a hash table that has room for all of them.

    Args:
        words: Words of one pile, uint64 ``[n]``.
        counts: Frequency of each; with 0 it is not one, uint32 ``[n]``.
        dropped: Words with any of these bits are left out, uint64.
        bits: First bits that the words of a pile have in common.
        keys: Words of the table, uint64 ``[capacity]``; written to.
        times: The frequency of each, 0 where there is none, uint32; written to.

    Returns:
        Number of words that were new.
    """
    fresh: Any = 0
    for i in range(len(words)):
        if counts[i] and not words[i] & dropped:
            place = _place(words[i], bits, keys, times)
            fresh += times[place] == 0
            keys[place] = words[i]
            times[place] += min(counts[i], _MOST_TIMES - times[place])
    return fresh


@_inner
def _place(word: Any, bits: Any, keys: Any, times: Any) -> Any:
    """Return the place of a word in a hash table, or that for it (linear probing)."""
    # The bits after the common ones choose the place; the last bits are those of the sample.
    fraction = (word << np.uint64(bits)) >> _HALF
    place = np.int64((fraction * np.uint64(len(keys))) >> _HALF)
    while times[place] and keys[place] != word:
        place += 1
        if place == len(keys):
            place -= len(keys)
    return place


@_kernel
def mix_words(
    words: Any, times: Any, part: Any, radix: Any, parts: Any, multipliers: Any, mixes: Any
) -> Any:
    """Turn words of `count_windows` back into windows, and mix those for the heads of a layer.

    Args:
        words: Words of one part, uint64 ``[n]``.
        times: Frequency of each; with 0 it is not one, uint32 ``[n]``.
        part: Index of the part.
        radix: Size of the vocabulary.
        parts: Number of parts.
        multipliers: Multipliers of the layer, uint64 ``[order]``.
        mixes: Output, uint64.

    Returns:
        Number of mixes.
    """
    base, count = np.uint64(radix), 0
    bar = _ALL // base
    low_bar, high_bar = bar & _LOW, bar >> _HALF
    for t in range(len(words)):
        if times[t]:
            word, mix = _gather(words[t]), np.uint64(0)
            for k in range(len(multipliers) - 1, 0, -1):
                # The quotient is at most 3 too small: a division takes several times as long.
                low, high = word & _LOW, word >> _HALF
                quotient = high * high_bar
                quotient += (low * high_bar) >> _HALF
                quotient += (high * low_bar) >> _HALF
                rest = word - quotient * base
                for _ in range(3):
                    quotient += np.uint64(rest >= base)
                    rest -= base if rest >= base else np.uint64(0)
                mix ^= rest * multipliers[k]
                word = quotient
            first = word * np.uint64(parts) + np.uint64(part)
            mixes[count] = mix ^ first * multipliers[0]
            count += 1
    return count


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

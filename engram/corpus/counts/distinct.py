"""Counts the distinct n-grams of one order of a text, and those whose rows others read too.

They are counted exactly up to a limit, and estimated from a sample above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Counts = NDArray[np.uint32]
# Sorted words and the frequency of each, for every part of the vocabulary.
WindowSets = list[tuple[Words, Counts]]

DEFAULT_MOST = 2**24
_PENDING = 2**22
_MOST_PARTS = 64
# Mixes stay below it, so heads whose primes have a larger product distinguish all mixes.
_MIXES = 2**63


class DistinctWindows:
    """A growing set of distinct windows, with the frequency of each.

    Windows are kept as scattered 64-bit words in sorted arrays. When there are too many, only those
    whose word ends with one more zero bit are kept, which is an unbiased sample of all windows
    (adaptive sampling, Flajolet 1990): the count is then an estimate.

    Args:
        order: Tokens of a window.
        vocab_size: Size of the vocabulary that is hashed.
        most: Most distinct windows to keep, 12 bytes each; sorting takes three times that and
            96 MiB.
        level: Initial number of zero bits at the end of the words of kept windows.

    Attributes:
        level: The current number.
    """

    def __init__(
        self, order: int, vocab_size: int, most: int = DEFAULT_MOST, level: int = 0
    ) -> None:
        self._order, self._vocab_size, self._most = order, vocab_size, most
        # The fewest parts with which a part's windows fit into 64 bits; 0 if there are too many.
        firsts = 2**64 // vocab_size ** (order - 1)
        parts = -(-vocab_size // firsts) if firsts else 0
        self._parts = parts if parts <= _MOST_PARTS else 0
        empty: tuple[Words, Counts] = np.empty(0, np.uint64), np.empty(0, np.uint32)
        self._sets: WindowSets = [empty] * max(self._parts, 1)
        # Words that are not yet in the sets, and the part of each.
        self._pending: list[tuple[Words, NDArray[np.uint8]]] = []
        self.level = level

    def add(self, slots: NDArray[np.uint32]) -> None:
        """Add windows ``[order or more, n]``: slot k holds the id k positions back."""
        from engram.corpus.counts import count_kernels

        slots = slots[: self._order]
        words = np.empty(slots.shape[1], np.uint64)
        part_of = np.zeros(slots.shape[1], np.uint8)
        if self._parts:
            count_kernels.pack_windows(slots, self._vocab_size, self._parts, words, part_of)
        else:
            count_kernels.hash_windows(slots, words)
        if self.level:
            stays = self._stays(words)
            words, part_of = words[stays], part_of[stays]
        self._pending.append((words, part_of))
        if sum(len(pending) for pending, _ in self._pending) >= min(_PENDING, self._most):
            self._settle()

    def count(self) -> int:
        """Number of distinct windows added so far."""
        self._settle()
        return self._kept << self.level

    def sets(self) -> WindowSets:
        """Return the kept words, for merging."""
        self._settle()
        return self._sets

    def merge(self, sets: WindowSets) -> None:
        """Add the kept words of another set, whose level is not higher."""
        self._settle()
        for part, (words, counts) in enumerate(sets):
            # Selecting copies: arrays from another process are read-only, for which kernels would
            # be compiled again.
            stays = self._stays(words)
            self._unite(part, words[stays], counts[stays])
        self._thin()

    def mixes(self, multipliers: NDArray[np.uint64]) -> Words:
        """Mix the windows of the set, which must be exact, with a layer's multipliers ``[order]``.

        Returns:
            The mixes, in the order of `sets`.
        """
        from engram.corpus.counts import count_kernels

        mixes = np.empty(self.count(), np.uint64)
        begin = 0
        for part, (words, _) in enumerate(self._sets):
            out = mixes[begin : begin + len(words)]
            count_kernels.mix_words(words, part, self._vocab_size, self._parts, multipliers, out)
            begin += len(words)
        return mixes

    @property
    def is_exact(self) -> bool:
        """Whether the count is exact."""
        return self.level == 0 and self._parts > 0

    @property
    def relative_error(self) -> float:
        """Two standard errors of the count, as a fraction of the count."""
        if self.is_exact or not self._kept:
            return 0.0
        # Windows that do not fit into 64 bits may share a hash.
        hashed = 0.0 if self._parts else float(self.count()) / 2**65
        return 2 * float(np.sqrt((1 - 0.5**self.level) / self._kept)) + hashed

    @property
    def _kept(self) -> int:
        return sum(len(words) for words, _ in self._sets)

    def _stays(self, words: Words) -> NDArray[np.bool_]:
        """Whether each word is of the sample of the current level."""
        return np.asarray(words & np.uint64(2**self.level - 1) == 0)

    def _settle(self) -> None:
        """Merge pending words into the sets."""
        from engram.corpus.counts import count_kernels

        if not self._pending:
            return
        words, part_of = map(np.concatenate, zip(*self._pending, strict=True))
        self._pending.clear()
        for part in range(len(self._sets)):
            fresh = words[part_of == part]
            fresh.sort()
            counts = np.empty(len(fresh), np.uint32)
            size = count_kernels.drop_repeats(fresh, counts)
            self._unite(part, fresh[:size], counts[:size])
        self._thin()

    def _unite(self, part: int, words: Words, counts: Counts) -> None:
        """Merge a sorted set into that of a part."""
        from engram.corpus.counts import count_kernels

        old, old_counts = self._sets[part]
        merged = np.empty(len(old) + len(words), np.uint64)
        merged_counts = np.empty(len(merged), np.uint32)
        size = count_kernels.merge(old, old_counts, words, counts, merged, merged_counts)
        self._sets[part] = merged[:size], merged_counts[:size]

    def _thin(self) -> None:
        while self._kept > self._most:
            self.level += 1
            kept = [(words, counts, self._stays(words)) for words, counts in self._sets]
            self._sets = [(words[stays], counts[stays]) for words, counts, stays in kept]


@dataclass(frozen=True)
class OrderCollisions:
    """Collisions of the n-grams of one order in one layer.

    An n-gram collides in a head where its row is also the row of another n-gram of the text.

    Attributes:
        order: n of the n-grams.
        any_head: Share of the distinct n-grams that collide in at least one head.
        every_head: Share that collide in every head, mostly with different ones.
        same_rows: Share that have exactly the same rows as another in all heads; None if unknown.
        occurrences_any_head: Share of the text's n-grams, each as often as it occurs, that collide
            in at least one head.
        occurrences_every_head: The same for every head.
        kind: Exact; or estimated, assuming that n-grams are hashed evenly, heads are independent,
            and frequent n-grams collide as often as rare ones.
    """

    order: int
    any_head: float
    every_head: float
    same_rows: float | None
    occurrences_any_head: float
    occurrences_every_head: float
    kind: Literal["exact", "estimated"]


def order_collisions(
    order: int, windows: DistinctWindows, multipliers: Sequence[int], primes: Sequence[int]
) -> OrderCollisions:
    """Count the collisions of one layer and order, or estimate them if the set is a sample.

    Memory: 25 bytes for each distinct n-gram, and one for each row of one head.

    Args:
        order: n of the n-grams.
        windows: The distinct n-grams of the text.
        multipliers: The layer's multipliers, at least n of them.
        primes: Rows of each head.
    """
    distinct = windows.count()
    if not windows.is_exact or not distinct:
        return _estimate(order, distinct, primes)
    from engram.corpus.counts import count_kernels

    mixes = windows.mixes(np.array(multipliers[:order], dtype=np.uint64))
    counts = np.concatenate([counts for _, counts in windows.sets()])
    shared: Any = np.zeros(distinct, np.uint8 if len(primes) < 2**8 else np.uint16)
    for prime in primes:
        count_kernels.mark_shared_rows(mixes, np.uint64(prime), np.zeros(prime, np.uint8), shared)
    occurred = int(counts.sum(dtype=np.uint64))
    any_head, every_head = shared > 0, shared == len(primes)
    product = math.prod(primes)
    # Equal rows in all heads are equal remainders of the product of their primes.
    keys = mixes if product >= _MIXES else mixes % np.uint64(product)
    keys.sort()
    equal = keys[1:] == keys[:-1]
    same = np.concatenate([equal, [False]]) | np.concatenate([[False], equal])
    return OrderCollisions(
        order=order,
        any_head=int(any_head.sum()) / distinct,
        every_head=int(every_head.sum()) / distinct,
        same_rows=int(same.sum()) / distinct,
        occurrences_any_head=int(counts[any_head].sum(dtype=np.uint64)) / occurred,
        occurrences_every_head=int(counts[every_head].sum(dtype=np.uint64)) / occurred,
        kind="exact",
    )


def _estimate(order: int, distinct: int, primes: Sequence[int]) -> OrderCollisions:
    others = max(distinct - 1, 0)
    alone = [math.exp(others * math.log1p(-1 / prime)) for prime in primes]
    any_head = 1 - math.prod(alone)
    every_head = math.prod(1 - part for part in alone)
    return OrderCollisions(order, any_head, every_head, None, any_head, every_head, "estimated")

"""Counts the distinct n-grams of one order of a text.

They are counted exactly up to a limit, and estimated from a sample above it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Counts = NDArray[np.uint32]
# Words and the frequency of each, for every part of the vocabulary.
WindowSets = list[tuple[Words, Counts]]

DEFAULT_MOST = 2**24
# The table of a pile of an ordinary text fits into the processor's second cache.
_PILES = 256
_PILE_WORDS = 2**14
_MOST_PARTS = 64
_LEAST_ROOM = 64
# Share of a table that may be used, and by how much one grows.
_MOST_USED = 0.8
_GROWTH = 1.5


class DistinctWindows:
    """A growing set of distinct windows, with the frequency of each.

    Windows are kept as scattered 64-bit words in hash tables. They are dealt to piles by their
    first bits before they are counted, so that a table is in the processor's cache when it is used.
    When there are too many, only those whose word ends with one more zero bit are kept, which is an
    unbiased sample of all windows (adaptive sampling, Flajolet 1990): the count is then an
    estimate.

    Args:
        order: Tokens of a window.
        vocab_size: Size of the vocabulary that is hashed.
        most: Most distinct windows to keep, 15 to 30 bytes each; piles take 32 MiB.
        level: Initial number of zero bits at the end of the words of kept windows.
        before_sampling: Called when the set is exact for the last time, before windows are dropped.

    Attributes:
        vocab_size: As given.
        level: The current number.
        added: Windows added so far.
        exact_until: Windows added when the set was exact for the last time; None while it is.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        most: int = DEFAULT_MOST,
        level: int = 0,
        before_sampling: Callable[[], None] | None = None,
    ) -> None:
        self._order, self.vocab_size, self._most = order, vocab_size, most
        # The fewest parts with which a part's windows fit into 64 bits; 0 if there are too many.
        firsts = 2**64 // vocab_size ** (order - 1)
        parts = -(-vocab_size // firsts) if firsts else 0
        self._parts = parts if parts <= _MOST_PARTS else 0
        self._bits = (_PILES // max(self._parts, 1)).bit_length() - 1
        self._tables = [_Table(self._bits) for _ in range(max(self._parts, 1) << self._bits)]
        # Words that are not yet in the tables.
        self._piles = np.empty((len(self._tables), _PILE_WORDS), np.uint64)
        self._sizes = np.zeros(len(self._tables), np.int64)
        self._kept = 0
        self._before_sampling = before_sampling
        self.level = level
        self.added = 0
        self.exact_until = None if self.is_exact else 0

    def add(self, slots: NDArray[np.uint32]) -> None:
        """Add windows ``[order or more, n]``: slot k holds the id k positions back."""
        from engram.corpus.counts import window_kernels

        slots = slots[: self._order]
        words = np.empty(slots.shape[1], np.uint64)
        part_of = np.zeros(slots.shape[1], np.uint8)
        if self._parts:
            window_kernels.pack_windows(slots, self.vocab_size, self._parts, words, part_of)
        else:
            window_kernels.hash_windows(slots, words)
        begin, before = 0, self.added
        while begin < len(words):
            begin, full = window_kernels.deal_words(
                words, part_of, begin, self._dropped, self._bits, self._piles, self._sizes
            )
            self.added = before + begin
            if full >= 0:
                self._settle(full)
                self._thin()

    def count(self) -> int:
        """Number of distinct windows added so far."""
        self._settle_all()
        self._thin()
        return self._kept << self.level

    def sets(self) -> WindowSets:
        """Return the kept words, for merging."""
        self.count()
        found: WindowSets = []
        for tables in self._by_part():
            words, counts = zip(*(table.words() for table in tables), strict=True)
            found.append((np.concatenate(words), np.concatenate(counts)))
        return found

    def times(self) -> Counts:
        """Return the frequency of every kept window, in the order of `sets`."""
        self.count()
        return np.concatenate([table.times[table.times > 0] for table in self._tables])

    def merge(self, sets: WindowSets) -> None:
        """Add the kept words of another set, whose level is not higher."""
        for tables, (words, counts) in zip(self._by_part(), sets, strict=True):
            pile_of = (words >> np.uint64(64 - self._bits)).astype(np.int64)
            order = np.argsort(pile_of, kind="stable")
            ends = np.cumsum(np.bincount(pile_of, minlength=len(tables)))
            begin = 0
            # Selecting copies: arrays from another process are read-only, for which kernels would
            # be compiled again.
            for table, end in zip(tables, ends.tolist(), strict=True):
                chosen = order[begin:end]
                self._kept += table.add(words[chosen], counts[chosen], self._dropped)
                begin = end
        self._settle_all()
        self._thin()

    def mixes(self, multipliers: NDArray[np.uint64]) -> Words:
        """Mix the windows of the set, which must be exact, with a layer's multipliers ``[order]``.

        Returns:
            The mixes, in the order of `sets`.
        """
        from engram.corpus.counts import window_kernels

        # Without thinning: a set that has become too large is read before windows are dropped.
        self._settle_all()
        mixes = np.empty(self._kept, np.uint64)
        begin = 0
        for part, tables in enumerate(self._by_part()):
            for table in tables:
                begin += window_kernels.mix_words(
                    table.keys,
                    table.times,
                    part,
                    self.vocab_size,
                    self._parts,
                    multipliers,
                    mixes[begin:],
                )
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
    def _dropped(self) -> np.uint64:
        """Bits that no word of the sample has at the current level."""
        return np.uint64(2**self.level - 1)

    def _by_part(self) -> list[list["_Table"]]:
        size = 1 << self._bits
        return [self._tables[at : at + size] for at in range(0, len(self._tables), size)]

    def _settle(self, pile: int) -> None:
        """Count the words of a pile."""
        words = self._piles[pile, : self._sizes[pile]]
        self._kept += self._tables[pile].count(words)
        self._sizes[pile] = 0

    def _settle_all(self) -> None:
        for pile in np.flatnonzero(self._sizes).tolist():
            self._settle(pile)

    def _thin(self) -> None:
        """Keep a smaller sample if there are too many windows."""
        while self._kept > self._most:
            if self.exact_until is None:
                self._settle_all()  # the callback reads the set
                self.exact_until = self.added
                if self._before_sampling is not None:
                    self._before_sampling()
            self._settle_all()  # words of piles were dealt for the level before
            self.level += 1
            self._kept = sum(table.thin(self._dropped) for table in self._tables)


class _Table:
    """A hash table of words with the same first bits.

    Attributes:
        keys: The words, uint64 ``[capacity]``.
        times: The frequency of each, 0 where there is none, uint32 ``[capacity]``.
    """

    def __init__(self, bits: int) -> None:
        self._bits, self._used = bits, 0
        self._make(0)

    def _make(self, words: int) -> None:
        capacity = max(int(words / _MOST_USED) + 1, _LEAST_ROOM)
        self.keys = np.empty(capacity, np.uint64)
        self.times = np.zeros(capacity, np.uint32)
        self._most = int(capacity * _MOST_USED)

    def _fill(self, words: Words, counts: Counts, dropped: np.uint64) -> int:
        from engram.corpus.counts import window_kernels

        fresh: int = window_kernels.add_counts(
            words, counts, dropped, self._bits, self.keys, self.times
        )
        self._used += fresh
        return fresh

    def _remake(self, words: int, dropped: np.uint64) -> None:
        """Move to new arrays with room for so many words."""
        keys, times = self.keys, self.times
        self._make(words)
        self._used = 0
        self._fill(keys, times, dropped)

    def count(self, words: Words) -> int:
        """Count words, and return how many were new."""
        from engram.corpus.counts import window_kernels

        before, done = self._used, 0
        while True:
            done, self._used = window_kernels.count_words(
                words, done, self._bits, self.keys, self.times, self._used, self._most
            )
            if done == len(words):
                return self._used - before
            self._remake(int(self._used * _GROWTH), np.uint64(0))

    def add(self, words: Words, counts: Counts, dropped: np.uint64) -> int:
        """Add words with their frequencies, and return how many were new."""
        if self._used + len(words) > self._most:
            self._remake(int((self._used + len(words)) * _GROWTH), np.uint64(0))
        return self._fill(words, counts, dropped)

    def thin(self, dropped: np.uint64) -> int:
        """Drop the words with any of some bits, and return how many are left."""
        self._remake(self._used, dropped)
        return self._used

    def words(self) -> tuple[Words, Counts]:
        """Return the words, and the frequency of each."""
        is_one: Any = self.times > 0
        return self.keys[is_one], self.times[is_one]

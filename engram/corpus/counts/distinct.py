"""Counts the distinct n-grams of one order of a text.

They are counted exactly up to a limit, and estimated from a sample above it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
_LEAST_ROOM = 2**10
# Share of a table that may be used, and by how much one grows.
_MOST_USED = 0.8
_GROWTH = 1.5


class Piles(NamedTuple):
    """Words that are to be counted, dealt by their first bits, and where they are counted.

    Attributes:
        bits: First bits that the words of a pile have in common; each part has ``2^bits`` piles.
        words: The words of each pile, uint64 ``[piles, room]``.
        sizes: How many each has, int64 ``[piles]``.
        counted: How many of a pile are counted while others are not, int64 ``[piles]``.
        places: Of each pile's hash table the addresses of its words (uint64) and of their
            frequencies (uint32, 0 where there is no word), its capacity, and the most words to
            have, fewer than that, int64 ``[piles, 4]``.
        used: Words in each table, int64 ``[piles]``.
    """

    bits: int
    words: Words
    sizes: NDArray[np.int64]
    counted: NDArray[np.int64]
    places: NDArray[np.int64]
    used: NDArray[np.int64]


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
        count = max(self._parts, 1) << self._bits
        self._tables = _Tables(count, self._bits)
        words = np.empty((count, _PILE_WORDS), np.uint64)
        sizes, counted = np.zeros((2, count), np.int64)
        self._piles = Piles(
            self._bits, words, sizes, counted, self._tables.places, self._tables.used
        )
        self._before_sampling = before_sampling
        self.level = level
        self.added = 0
        self.exact_until = None if self.is_exact else 0

    def add(
        self,
        ids: NDArray[np.uint32],
        boundaries: NDArray[np.int64],
        begin: int,
        end: int,
        fill: int,
    ) -> None:
        """Add the windows that end at positions begin..end-1 of documents.

        Args:
            ids: Ids of the documents ``[n]``.
            boundaries: Starts of the documents, and the end of the last, ``[documents + 1]``.
            begin: First position.
            end: Position after the last.
            fill: The id that is read before a document.
        """
        from engram.corpus.counts import window_kernels

        position = begin
        while position < end:
            position, full = window_kernels.count_windows(
                ids,
                boundaries,
                position,
                end,
                fill,
                self._order,
                self.vocab_size,
                self._parts,
                self._dropped,
                self._piles,
            )
            if full >= 0:
                self._settle(full, full + 1)
        self.added += end - begin
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
        for piles in self._by_part():
            words, counts = zip(*map(self._tables.words, piles), strict=True)
            found.append((np.concatenate(words), np.concatenate(counts)))
        return found

    def times(self) -> Counts:
        """Return the frequency of every kept window, in the order of `sets`."""
        self.count()
        return np.concatenate([times[times > 0] for times in self._tables.times])

    def merge(self, sets: WindowSets) -> None:
        """Add the kept words of another set, whose level is not higher."""
        for piles, (words, counts) in zip(self._by_part(), sets, strict=True):
            pile_of = (words >> np.uint64(64 - self._bits)).astype(np.int64)
            order = np.argsort(pile_of, kind="stable")
            ends = np.cumsum(np.bincount(pile_of, minlength=len(piles)))
            begin = 0
            # Selecting copies: arrays from another process are read-only, for which kernels would
            # be compiled again.
            for pile, end in zip(piles, ends.tolist(), strict=True):
                chosen = order[begin:end]
                self._tables.add(pile, words[chosen], counts[chosen], self._dropped)
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
        for part, piles in enumerate(self._by_part()):
            for pile in piles:
                begin += window_kernels.mix_words(
                    self._tables.keys[pile],
                    self._tables.times[pile],
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

    @property
    def _kept(self) -> int:
        """Words in the tables."""
        return int(self._tables.used.sum())

    def _by_part(self) -> list[range]:
        """The piles of every part."""
        size = 1 << self._bits
        return [range(at, at + size) for at in range(0, len(self._piles.sizes), size)]

    def _settle(self, first: int, end: int) -> None:
        """Count the words of some piles."""
        from engram.corpus.counts import window_kernels

        while first < end:
            first = window_kernels.count_piles(first, end, self._piles)
            if first < end:
                self._tables.grow(first)

    def _settle_all(self) -> None:
        self._settle(0, len(self._piles.sizes))

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
            self._tables.thin(self._dropped)


class _Tables:
    """Hash tables of words, one for each pile: its words have the same first bits.

    Attributes:
        keys: The words of each, uint64 ``[capacity]``.
        times: The frequency of each word, 0 where there is none, uint32 ``[capacity]``.
        used: Words in each, int64 ``[tables]``.
        places: Where they are, see `Piles`.
    """

    def __init__(self, count: int, bits: int) -> None:
        self._bits = bits
        self.keys: list[Words] = [np.empty(0, np.uint64)] * count
        self.times: list[Counts] = [np.empty(0, np.uint32)] * count
        self.used, self.places = np.zeros(count, np.int64), np.zeros((count, 4), np.int64)
        for index in range(count):
            self._make(index, 0)

    def _make(self, index: int, words: int) -> None:
        """Make an empty table with room for so many words."""
        capacity = max(int(words / _MOST_USED) + 1, _LEAST_ROOM)
        keys, times = np.empty(capacity, np.uint64), np.zeros(capacity, np.uint32)
        self.keys[index], self.times[index], self.used[index] = keys, times, 0
        most = int(capacity * _MOST_USED)
        self.places[index] = keys.ctypes.data, times.ctypes.data, capacity, most

    def _fill(self, index: int, words: Words, counts: Counts, dropped: np.uint64) -> None:
        from engram.corpus.counts import window_kernels

        self.used[index] += window_kernels.add_counts(
            words, counts, dropped, self._bits, self.keys[index], self.times[index]
        )

    def _remake(self, index: int, words: int, dropped: np.uint64) -> None:
        """Move to new arrays with room for so many words."""
        keys, times = self.keys[index], self.times[index]
        self._make(index, words)
        self._fill(index, keys, times, dropped)

    def grow(self, index: int, more: int = 0) -> None:
        """Make a table larger, with room for its words and others."""
        self._remake(index, int((int(self.used[index]) + more) * _GROWTH), np.uint64(0))

    def add(self, index: int, words: Words, counts: Counts, dropped: np.uint64) -> None:
        """Add words with their frequencies."""
        if self.used[index] + len(words) > self.places[index, 3]:
            self.grow(index, len(words))
        self._fill(index, words, counts, dropped)

    def thin(self, dropped: np.uint64) -> None:
        """Drop the words with any of some bits."""
        for index, used in enumerate(self.used.tolist()):
            self._remake(index, used, dropped)

    def words(self, index: int) -> tuple[Words, Counts]:
        """Return the words of a table, and the frequency of each."""
        is_one: Any = self.times[index] > 0
        return self.keys[index][is_one], self.times[index][is_one]

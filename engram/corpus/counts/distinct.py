"""Counts the distinct n-grams of one order of a text: exactly up to a limit, then by sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
# Sorted words and the frequency of each, for every part of the vocabulary.
WindowSets = list[tuple[Words, NDArray[np.uint32]]]

DEFAULT_MOST = 2**24
_PENDING = 2**22
_MOST_PARTS = 64
_CHUNK = 2**18


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
        others = vocab_size ** (order - 1)
        # The fewest parts with which a part's windows fit into 64 bits; 0 if there are too many.
        first = 2**64 // others
        self._parts = -(-vocab_size // first) if first else 0
        if self._parts > _MOST_PARTS:
            self._parts = 0
        self._sets: list[Words] = [np.empty(0, np.uint64) for _ in range(max(self._parts, 1))]
        self._counts = [np.empty(0, np.uint32) for _ in self._sets]
        self._pending: list[list[Words]] = [[] for _ in self._sets]
        self._n_pending = 0
        self.level = level

    def add(self, slots: NDArray[np.uint32]) -> None:
        """Add windows ``[order, n]``: slot k holds the id k positions back."""
        from engram.corpus.counts import count_kernels

        words = np.empty(slots.shape[1], np.uint64)
        part_of = np.zeros(slots.shape[1], np.uint8)
        if self._parts:
            count_kernels.pack_windows(slots, self._vocab_size, self._parts, words, part_of)
        else:
            count_kernels.hash_windows(slots, words)
        for part, pending in enumerate(self._pending):
            mine = words if len(self._sets) == 1 else words[part_of == part]
            mine = self._sample(mine)
            pending.append(mine)
            self._n_pending += len(mine)
        if self._n_pending >= min(_PENDING, self._most):
            self._settle()

    def count(self) -> int:
        """Number of distinct windows added so far."""
        self._settle()
        return self._kept << self.level

    def sets(self) -> WindowSets:
        """Return the kept words, for merging."""
        self._settle()
        return list(zip(self._sets, self._counts, strict=True))

    def merge(self, sets: WindowSets) -> None:
        """Add the kept words of another set, whose level is not higher."""
        self._settle()
        mask = np.uint64(2**self.level - 1)
        for part, (words, counts) in enumerate(sets):
            # Selecting copies: arrays from another process are read-only, for which kernels would
            # be compiled again.
            stays = words & mask == 0
            self._unite(part, words[stays], counts[stays])
        self._thin()

    def windows(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """Read the set, which must be exact.

        Yields:
            Some windows at a time, ``[order, n]`` as they were added, and the frequency of each.
        """
        from engram.corpus.counts import count_kernels

        self._settle()
        for part, (words, counts) in enumerate(zip(self._sets, self._counts, strict=True)):
            for begin in range(0, len(words), _CHUNK):
                chunk = words[begin : begin + _CHUNK]
                slots = np.empty((self._order, len(chunk)), np.uint32)
                count_kernels.unpack_windows(chunk, part, self._vocab_size, self._parts, slots)
                yield slots, counts[begin : begin + _CHUNK]

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
        return sum(map(len, self._sets))

    def _sample(self, words: Words) -> Words:
        mask = np.uint64(2**self.level - 1)
        return words[words & mask == 0] if self.level else words

    def _settle(self) -> None:
        """Merge pending words into the sets."""
        from engram.corpus.counts import count_kernels

        for part, pending in enumerate(self._pending):
            if not pending:
                continue
            fresh: Any = np.concatenate(pending)
            pending.clear()
            fresh.sort()
            fresh_counts = np.empty(len(fresh), np.uint32)
            size = count_kernels.drop_repeats(fresh, fresh_counts)
            self._unite(part, fresh[:size], fresh_counts[:size])
        self._n_pending = 0
        self._thin()

    def _unite(self, part: int, words: Words, counts: NDArray[np.uint32]) -> None:
        """Merge a sorted set into that of a part."""
        from engram.corpus.counts import count_kernels

        old, old_counts = self._sets[part], self._counts[part]
        merged = np.empty(len(old) + len(words), np.uint64)
        merged_counts = np.empty(len(merged), np.uint32)
        size = count_kernels.merge(old, old_counts, words, counts, merged, merged_counts)
        self._sets[part], self._counts[part] = merged[:size], merged_counts[:size]

    def _thin(self) -> None:
        while self._kept > self._most:
            self.level += 1
            for part, words in enumerate(self._sets):
                stays = words & np.uint64(2**self.level - 1) == 0
                self._sets[part], self._counts[part] = words[stays], self._counts[part][stays]

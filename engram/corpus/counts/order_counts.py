"""Counts of one order of a text: its distinct n-grams, their growth, and rows when sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.corpus.counts.distinct import DistinctWindows, WindowSets
from engram.growth import Growth, GrowthPoint, length_after


@dataclass(frozen=True)
class Piece:
    """Documents, and the pieces of them to count.

    Attributes:
        ids: Ids of the vocabulary that is hashed, uint32 ``[n]``.
        boundaries: Starts of the documents, and the end of the last, ``[documents + 1]``.
        fill: The id that is read before a document.
        cuts: Begin and end of every piece, one after the other.
    """

    ids: NDArray[np.uint32]
    boundaries: NDArray[np.int64]
    fill: int
    cuts: Sequence[tuple[int, int]]

    def windows(self, order: int, skip: int = 0) -> Iterator[NDArray[np.uint32]]:
        """Lay out the windows of every piece, ``[order, n]`` in an array that is used again.

        Args:
            order: Tokens of a window.
            skip: Windows to leave out at the start.
        """
        from engram.corpus.counts import window_kernels

        most = max((end - begin for begin, end in self.cuts), default=0)
        buffer = np.empty(order * most, np.uint32)
        for begin, end in self.cuts:
            first = min(begin + skip, end)
            skip -= first - begin
            slots = buffer[: order * (end - first)].reshape(order, -1)
            if first < end:
                window_kernels.lay_windows(self.ids, self.boundaries, first, end, self.fill, slots)
            yield slots


class OrderCounts:
    """Counts the n-grams of one order.

    Args:
        order: n of the n-grams.
        addresses: The memory's constants.
        most_distinct: Distinct n-grams up to which their number is exact.
        level: Initial sampling of the n-grams.

    Attributes:
        order: As given.
        windows: The distinct n-grams.
        rows: Bitmaps of the rows hit, by layer; empty while `windows` is exact.
    """

    def __init__(self, order: int, addresses: Addresses, most_distinct: int, level: int) -> None:
        self.order = order
        self._layers = [
            (layer.multipliers[:order], primes)
            for layer in addresses.layers
            for primes in [layer.primes[addresses.orders.index(order)]]
        ]
        self.windows = DistinctWindows(
            order, addresses.vocab_size, most_distinct, level, self._mark_set
        )
        self.rows: list[RowsHit] = []
        if not self.windows.is_exact:
            self._make_rows()
        self._tokens = 0
        self._points: dict[int, GrowthPoint] = {}

    def add(self, piece: Piece) -> int | None:
        """Add the n-grams of documents.

        Returns:
            The first of them whose rows are not those of an exact set, so that they have to be
            added to `rows`; None if there is none.
        """
        before = self.windows.added
        for begin, end in piece.cuts:
            self.windows.add(piece.ids, piece.boundaries, begin, end, piece.fill)
            self._advance(end - begin)
        until = self.windows.exact_until
        return None if until is None else max(until - before, 0)

    def merge(
        self, tokens: int, sets: WindowSets, bits: Sequence[NDArray[np.uint64] | None]
    ) -> None:
        """Add the counts of the next piece of the text.

        Args:
            tokens: Tokens of the piece.
            sets: Its distinct n-grams.
            bits: By layer, the bitmaps of the rows that it hits; None if the sets are exact.
        """
        for rows, more in zip(self.rows, bits, strict=False):
            if more is not None:
                rows.bits |= more
        if self.rows and any(more is None for more in bits):
            only = DistinctWindows(self.order, self.windows.vocab_size, 2**62)
            only.merge(sets)
            self._mark(only)
        self.windows.merge(sets)
        self._advance(tokens)

    def growth(self) -> Growth:
        """Return the growth curve of the distinct n-grams."""
        points = self._points | {self._tokens: self._now()}
        return Growth(self.order, tuple(points.values()))

    def _advance(self, tokens: int) -> None:
        counted = length_after(self._tokens)
        self._tokens += tokens
        if self._tokens == counted:
            self._points[counted] = self._now()

    def _now(self) -> GrowthPoint:
        distinct = self.windows.count()
        return GrowthPoint(
            self._tokens, distinct, "exact" if self.windows.is_exact else "estimated"
        )

    def _make_rows(self) -> None:
        self.rows = [RowsHit(multipliers, primes) for multipliers, primes in self._layers]

    def _mark_set(self) -> None:
        self._make_rows()
        self._mark(self.windows)

    def _mark(self, windows: DistinctWindows) -> None:
        """Mark the rows of an exact set."""
        for rows in self.rows:
            rows.add_mixes(windows.mixes(rows.multipliers))


class RowsHit:
    """Bitmaps of the rows hit, of the heads of one layer and order.

    Heads of which every row was hit are not marked any more: of a long text and small tables that
    is soon all of them.

    Args:
        multipliers: Multipliers of the layer, one for each token of a window.
        primes: Rows of each head.

    Attributes:
        multipliers: As given, uint64 ``[order]``.
        bits: The bitmaps, see `count_kernels.mark_rows`.
    """

    def __init__(self, multipliers: Sequence[int], primes: Sequence[int]) -> None:
        self._primes = np.array(primes, dtype=np.uint64)
        self.multipliers = np.array(multipliers, dtype=np.uint64)
        *bases, words = accumulate((-(-prime // 64) for prime in primes), initial=0)
        self._bases = np.array(bases)
        self.bits: Any = np.zeros(words, dtype=np.uint64)
        # Heads with rows that were not hit, and windows marked since that was looked at.
        self._open = np.arange(len(primes))
        self._marked = 0

    def add(self, piece: Piece, begin: int) -> None:
        """Mark the rows of documents, from a window on."""
        from engram.corpus.counts import count_kernels

        self._close_full()
        if not len(self._open):
            return
        primes, bases = self._primes[self._open], self._bases[self._open]
        for slots in piece.windows(len(self.multipliers), begin):
            count_kernels.mark_rows(slots, self.multipliers, primes, bases, self.bits)
            self._marked += slots.shape[1]

    def add_mixes(self, mixes: NDArray[np.uint64]) -> None:
        """Mark the rows of windows that were mixed."""
        from engram.corpus.counts import count_kernels

        count_kernels.mark_mixes(mixes, self._primes, self._bases, self.bits)
        self._marked += len(mixes)

    def _close_full(self) -> None:
        """Look for heads that are full, at the price of a small part of the marking since."""
        if len(self._open) and self._marked >= self._primes[self._open].max():
            self._open = np.flatnonzero(np.array(self.hits(), np.uint64) < self._primes)
            self._marked = 0

    def hits(self) -> tuple[int, ...]:
        """Return the number of rows hit of each head."""
        rows_of_words = np.bitwise_count(self.bits)
        return tuple(map(int, np.add.reduceat(rows_of_words, self._bases, dtype=np.int64)))

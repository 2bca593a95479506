"""Statistics of a text: rows hit, distinct n-grams and collisions, by layer, order and head.

They are counted in one pass over the text; n-grams are also counted at growing lengths of it.

Distinct n-grams are those that the layout reads (compressed ids, the fill included), so they do
not depend on the layer; rows do.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.corpus.counts.distinct import (
    DEFAULT_MOST,
    DistinctWindows,
    OrderCollisions,
    WindowSets,
    order_collisions,
)
from engram.corpus.tokens.tokenise import TokenBatch
from engram.errors import InputError
from engram.growth import Growth, GrowthPoint, length_after, pieces

_CHUNK = 2**18


@dataclass(frozen=True)
class HeadStatistics:
    """Statistics of a text for the table of one head.

    Attributes:
        order: n of the n-grams.
        head: Index among the heads of the order.
        rows: Rows of the head's table: its prime.
        rows_hit: Rows that the text reads at least once; always exact.
        load: rows_hit / rows.
        distinct_ngrams: Distinct n-grams of the text.
        collisions: distinct_ngrams - rows_hit: n-grams whose row was taken already.
        kind: Whether distinct_ngrams, and so collisions, is exact or estimated.
        relative_error: Two standard errors of distinct_ngrams, as a fraction of it; 0 if exact.
    """

    order: int
    head: int
    rows: int
    rows_hit: int
    load: float
    distinct_ngrams: int
    collisions: int
    kind: Literal["exact", "estimated"]
    relative_error: float


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of a text for the tables of one layer.

    Attributes:
        layer_id: The layer (0-based) in the backbone.
        heads: Its heads, one order after the other.
        orders: Collisions by order, all heads together.
    """

    layer_id: int
    heads: tuple[HeadStatistics, ...]
    orders: tuple[OrderCollisions, ...]


@dataclass(frozen=True)
class PartialStatistics:
    """Counts of a piece of a text, to be merged with the rest.

    Attributes:
        tokens: Tokens of the piece.
        distinct: By order, its distinct n-grams, see `DistinctWindows.sets`.
        rows: By layer and order, the bitmaps of the rows that it hits.
    """

    tokens: int
    distinct: dict[int, WindowSets]
    rows: dict[tuple[int, int], NDArray[np.uint64]]


class Statistics:
    """Collects the statistics of a text from its tokens, without storing hash ids.

    Memory: one bit per row of every table, and the sets of `DistinctWindows`.

    Args:
        addresses: The memory's constants.
        threads: Threads that work on a batch; the result does not depend on them.
        most_distinct: Distinct n-grams per order up to which their number is exact.
        levels: Initial sampling of the n-grams of each order, see `levels`.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        threads: int = 1,
        most_distinct: int = DEFAULT_MOST,
        levels: Mapping[int, int] | None = None,
    ) -> None:
        self.addresses = addresses
        self._buffer = np.empty(addresses.max_ngram_size * _CHUNK, dtype=np.uint32)
        self._distinct = {
            order: DistinctWindows(
                order, addresses.vocab_size, most_distinct, levels[order] if levels else 0
            )
            for order in addresses.orders
        }
        self._rows = {
            (layer.layer_id, order): _RowsHit(layer.multipliers[:order], primes)
            for layer in addresses.layers
            for order, primes in zip(addresses.orders, layer.primes, strict=True)
        }
        self._pool = ThreadPoolExecutor(threads)
        self._tokens = 0
        # By length of the text, the points of the growth curves by order.
        self._points: dict[int, dict[int, GrowthPoint]] = {}

    def add(self, batch: TokenBatch) -> None:
        """Add documents.

        Raises:
            InputError: A token id is not below the tokenizer's length.
        """
        ids, boundaries = self._ids(batch)
        for begin, end in pieces(self._tokens, len(ids), _CHUNK):
            self._add(ids, boundaries, begin, end)
            self._advance(end - begin)

    @property
    def levels(self) -> dict[int, int]:
        """Sampling levels: how often the n-grams of each order were halved."""
        return {order: windows.level for order, windows in self._distinct.items()}

    def part(self, batch: TokenBatch, begin: int, end: int) -> PartialStatistics:
        """Add the counts of positions begin..end-1 of documents, and return them."""
        ids, boundaries = self._ids(batch)
        for first in range(begin, end, _CHUNK):
            self._add(ids, boundaries, first, min(first + _CHUNK, end))
        return PartialStatistics(
            tokens=end - begin,
            distinct={order: windows.sets() for order, windows in self._distinct.items()},
            rows={key: rows.bits for key, rows in self._rows.items()},
        )

    def merge(self, part: PartialStatistics) -> None:
        """Add the counts from elsewhere for the next piece of the text, cut by `pieces`.

        The result is the same as if the piece had been added.
        """
        for key, rows in self._rows.items():
            rows.bits |= part.rows[key]
        list(self._pool.map(DistinctWindows.merge, self._distinct.values(), part.distinct.values()))
        self._advance(part.tokens)

    def _ids(self, batch: TokenBatch) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the ids to hash, and the boundaries of documents."""
        tokens, addresses = batch.tokens, self.addresses
        if len(tokens) and int(tokens.max()) >= addresses.raw_vocab_size:
            raise InputError(
                f"Token ids must be below {addresses.raw_vocab_size}, the length of the memory's "
                f"tokenizer, got {int(tokens.max())}.",
                "Use that tokenizer.",
                token_id=int(tokens.max()),
                vocab_size=addresses.raw_vocab_size,
            )
        ids: Any = tokens if addresses.token_map is None else addresses.token_map[tokens]
        ids = ids.astype(np.uint32, copy=False)
        boundaries = batch.boundaries
        if addresses.end_id is not None:
            ends = np.flatnonzero(tokens == addresses.end_id) + 1
            boundaries = np.union1d(boundaries, ends)
        return ids, boundaries

    def _advance(self, tokens: int) -> None:
        counted = length_after(self._tokens)
        self._tokens += tokens
        if self._tokens == counted:
            self._points[counted] = self._now()

    def _add(
        self, ids: NDArray[np.uint32], boundaries: NDArray[np.int64], begin: int, end: int
    ) -> None:
        from engram.corpus.counts import count_kernels

        addresses, size = self.addresses, end - begin
        slots = self._buffer[: addresses.max_ngram_size * size].reshape(-1, size)
        count_kernels.lay_windows(ids, boundaries, begin, end, addresses.fill, slots)
        counters = *self._distinct.values(), *self._rows.values()
        list(self._pool.map(lambda counter: counter.add(slots), counters))

    def growth(self) -> tuple[Growth, ...]:
        """Return the growth curve of the distinct n-grams of each order."""
        points = self._points | {self._tokens: self._now()}
        return tuple(
            Growth(order, tuple(point[order] for point in points.values()))
            for order in self._distinct
        )

    def _now(self) -> dict[int, GrowthPoint]:
        counts = self._pool.map(DistinctWindows.count, self._distinct.values())
        return {
            order: GrowthPoint(self._tokens, distinct, "exact" if windows.is_exact else "estimated")
            for (order, windows), distinct in zip(self._distinct.items(), counts, strict=True)
        }

    def layers(self) -> tuple[LayerStatistics, ...]:
        """Return the statistics of everything added so far."""
        addresses, found = self.addresses, []
        # Merges pending words, since the sets are then read in parallel.
        self._now()
        windows = [self._distinct[order] for order in addresses.orders]
        # One layer at a time: collisions take more memory than the sets.
        for layer in addresses.layers:
            factors = [layer.multipliers] * addresses.n_orders
            collisions = self._pool.map(
                order_collisions, addresses.orders, windows, factors, layer.primes
            )
            heads = (
                _head(order, head, prime, hit, self._distinct[order])
                for order, primes in zip(addresses.orders, layer.primes, strict=True)
                for head, (prime, hit) in enumerate(
                    zip(primes, self._rows[layer.layer_id, order].hits(), strict=True)
                )
            )
            found.append(LayerStatistics(layer.layer_id, tuple(heads), tuple(collisions)))
        return tuple(found)


def _head(
    order: int, head: int, rows: int, rows_hit: int, windows: DistinctWindows
) -> HeadStatistics:
    # An estimate may be below the certain minimum, the number of rows hit.
    distinct = windows.count() if windows.is_exact else max(windows.count(), rows_hit)
    return HeadStatistics(
        order=order,
        head=head,
        rows=rows,
        rows_hit=rows_hit,
        load=rows_hit / rows,
        distinct_ngrams=distinct,
        collisions=distinct - rows_hit,
        kind="exact" if windows.is_exact else "estimated",
        relative_error=windows.relative_error,
    )


class _RowsHit:
    """Bitmaps of the rows hit, of the heads of one layer and order."""

    def __init__(self, multipliers: tuple[int, ...], primes: tuple[int, ...]) -> None:
        self._primes = np.array(primes, dtype=np.uint64)
        self._multipliers = np.array(multipliers, dtype=np.uint64)
        *bases, words = accumulate((-(-prime // 64) for prime in primes), initial=0)
        self._bases = np.array(bases)
        self.bits = np.zeros(words, dtype=np.uint64)

    def add(self, slots: NDArray[np.uint32]) -> None:
        """Add windows, see `DistinctWindows.add`."""
        from engram.corpus.counts import count_kernels

        slots = slots[: len(self._multipliers)]
        count_kernels.mark_rows(slots, self._multipliers, self._primes, self._bases, self.bits)

    def hits(self) -> list[int]:
        """Return the number of rows hit of each head."""
        rows_of_words = np.bitwise_count(self.bits)
        return list(map(int, np.add.reduceat(rows_of_words, self._bases, dtype=np.int64)))

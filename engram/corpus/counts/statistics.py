"""Statistics of a text: rows hit, distinct n-grams and collisions, by layer, order and head.

They are counted in one pass over the text; n-grams are also counted at growing lengths of it.

Distinct n-grams are those that the layout reads (compressed ids, the fill included), so they do
not depend on the layer; rows do.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.corpus.counts.collisions import OrderCollisions, OrderRows, order_rows
from engram.corpus.counts.distinct import DEFAULT_MOST, WindowSets
from engram.corpus.counts.order_counts import OrderCounts, Piece
from engram.corpus.tokens.tokenise import TokenBatch
from engram.errors import InputError
from engram.growth import Growth, pieces

_CHUNK = 2**19
# An order that loads its code or grows its tables may be late by so many tokens before the others
# wait for it.
_MOST_WAITING = 2**23


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
        rows: By layer and order, the bitmaps of the rows that it hits; none of orders whose sets
            are exact.
    """

    tokens: int
    distinct: dict[int, WindowSets]
    rows: dict[tuple[int, int], NDArray[np.uint64]]


class Statistics:
    """Collects the statistics of a text from its tokens, without storing hash ids.

    Rows follow from the distinct n-grams while all of them are kept. When an order has too many,
    the rows of those so far are marked in bitmaps, and from then on the rows of every token, in
    heads that have rows left.

    Memory: the sets of `DistinctWindows`; one bit per row of every table of the orders that have
    too many n-grams; and the batches that are being counted, of eight million tokens or two
    batches.

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
        self._orders = [
            OrderCounts(order, addresses, most_distinct, levels[order] if levels else 0)
            for order in addresses.orders
        ]
        self._pool = ThreadPoolExecutor(threads)
        # Each counts the batches of its orders one after the other.
        self._counters = [ThreadPoolExecutor(1) for _ in self._orders[:threads]]
        self._waiting: deque[tuple[Piece, list[Future[int | None]]]] = deque()
        self._tokens = 0

    def add(self, batch: TokenBatch) -> None:
        """Add documents, whose arrays must not change until something is read of the counts.

        Raises:
            InputError: A token id is not below the tokenizer's length.
        """
        ids, boundaries = self._ids(batch)
        cuts = list(pieces(self._tokens, len(ids), _CHUNK))
        self._count(ids, boundaries, cuts)
        self._tokens += len(ids)

    @property
    def levels(self) -> dict[int, int]:
        """Sampling levels: how often the n-grams of each order were halved."""
        self._wait()
        return {counts.order: counts.windows.level for counts in self._orders}

    def part(self, batch: TokenBatch, begin: int, end: int) -> PartialStatistics:
        """Add the counts of positions begin..end-1 of documents, and return them."""
        ids, boundaries = self._ids(batch)
        cuts = [(first, min(first + _CHUNK, end)) for first in range(begin, end, _CHUNK)]
        self._count(ids, boundaries, cuts)
        self._wait()
        return PartialStatistics(
            tokens=end - begin,
            distinct={counts.order: counts.windows.sets() for counts in self._orders},
            rows={
                (layer.layer_id, counts.order): rows.bits
                for counts in self._orders
                for layer, rows in zip(self.addresses.layers, counts.rows, strict=False)
            },
        )

    def merge(self, part: PartialStatistics) -> None:
        """Add the counts from elsewhere for the next piece of the text, cut by `pieces`.

        The result is the same as if the piece had been added.
        """
        self._wait()
        self._tokens += part.tokens
        layers = self.addresses.layers

        def merge(counts: OrderCounts) -> None:
            order = counts.order
            bits = [part.rows.get((layer.layer_id, order)) for layer in layers]
            counts.merge(part.tokens, part.distinct[order], bits)

        list(self._pool.map(merge, self._orders))

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

    def _count(
        self, ids: NDArray[np.uint32], boundaries: NDArray[np.int64], cuts: list[tuple[int, int]]
    ) -> None:
        """Begin to count pieces of documents, each order on one thread."""
        piece = Piece(ids, boundaries, self.addresses.fill, cuts)
        self._wait(_MOST_WAITING)
        counters = cycle(self._counters)
        counting = [next(counters).submit(counts.add, piece) for counts in self._orders]
        self._waiting.append((piece, counting))

    def _wait(self, most: int = 0) -> None:
        """Wait until at most so many tokens, or one batch, wait; mark the rows of the others."""
        while self._waiting and (
            not most or sum(len(it.ids) for it, _ in list(self._waiting)[1:]) > most
        ):
            piece, counting = self._waiting.popleft()
            starts = [future.result() for future in counting]
            marking = [
                (rows, begin)
                for counts, begin in zip(self._orders, starts, strict=True)
                if begin is not None
                for rows in counts.rows
            ]
            list(self._pool.map(lambda item, piece=piece: item[0].add(piece, item[1]), marking))

    def close(self) -> None:
        """End all counting; nothing can be added any more."""
        for pool in (*self._counters, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def growth(self) -> tuple[Growth, ...]:
        """Return the growth curve of the distinct n-grams of each order."""
        self._wait()
        return tuple(self._pool.map(OrderCounts.growth, self._orders))

    def layers(self) -> tuple[LayerStatistics, ...]:
        """Return the statistics of everything added so far."""
        addresses = self.addresses
        self._wait()
        # Settles the sets, since they are then read in parallel.
        list(self._pool.map(lambda counts: counts.windows.count(), self._orders))
        # The longest tasks first; they take more memory than the sets.
        places = range(addresses.n_orders)
        tasks = [(layer, place) for place in places[::-1] for layer in addresses.layers]

        def rows_of(task: tuple[LayerAddresses, int]) -> OrderRows:
            layer, place = task
            counts = self._orders[place]
            return order_rows(counts.order, counts.windows, layer.multipliers, layer.primes[place])

        found = {
            (layer.layer_id, place): rows
            for (layer, place), rows in zip(tasks, self._pool.map(rows_of, tasks), strict=True)
        }
        return tuple(
            self._layer(index, [found[layer.layer_id, place] for place in places])
            for index, layer in enumerate(addresses.layers)
        )

    def _layer(self, index: int, rows: Sequence[OrderRows]) -> LayerStatistics:
        layer = self.addresses.layers[index]
        heads = (
            _head(head, prime, hit, counts)
            for counts, primes, found in zip(self._orders, layer.primes, rows, strict=True)
            for head, (prime, hit) in enumerate(
                zip(primes, found.hits or counts.rows[index].hits(), strict=True)
            )
        )
        return LayerStatistics(layer.layer_id, tuple(heads), tuple(row.collisions for row in rows))


def _head(head: int, rows: int, rows_hit: int, counts: OrderCounts) -> HeadStatistics:
    windows = counts.windows
    # An estimate may be below the certain minimum, the number of rows hit.
    distinct = windows.count() if windows.is_exact else max(windows.count(), rows_hit)
    return HeadStatistics(
        order=counts.order,
        head=head,
        rows=rows,
        rows_hit=rows_hit,
        load=rows_hit / rows,
        distinct_ngrams=distinct,
        collisions=distinct - rows_hit,
        kind="exact" if windows.is_exact else "estimated",
        relative_error=windows.relative_error,
    )

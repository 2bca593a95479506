"""Cache curves: hit rates of a row cache for a layer's table, by size.

Two caches of whole rows are measured: one that drops the least recently read row (LRU), exactly, by
stack distances; and a fixed set of the most frequent rows, the best static cache. Each is measured
cold (empty at first, so that the first look-up of a row misses) and warm (the first half of the
text fills the cache or selects the fixed set, and only the second half is counted).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.addressing.hashing import Hasher
from engram.corpus.tokens.tokenise import TokenBatch, Tokens
from engram.errors import InputError

TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
_MOST_LOOKUPS = 2**31 - 1


@dataclass(frozen=True)
class CachePoint:
    """Hit rates of caches of one size: hits / look-ups.

    Attributes:
        rows: Rows in the cache.
        lru_cold: LRU, empty at first.
        lru_warm: LRU, on the second half, after the first.
        static_cold: The most frequent rows of the text, each read from the table once.
        static_warm: The most frequent rows of the first half, on the second.
    """

    rows: int
    lru_cold: float
    lru_warm: float
    static_cold: float
    static_warm: float


@dataclass(frozen=True)
class CacheTarget:
    """The cache size for a hit rate of a warm cache.

    Attributes:
        hit_rate: The wanted hit rate.
        lru_rows: Fewest rows of an LRU cache; None if no size reaches it.
        static_rows: Fewest rows of a fixed set; None if no set reaches it.
    """

    hit_rate: float
    lru_rows: int | None
    static_rows: int | None


@dataclass(frozen=True)
class LayerCache:
    """The cache curve of one layer.

    Attributes:
        layer_id: The layer (0-based) in the backbone.
        table_rows: Rows of its table that ids can reach.
        lookups: Rows that the text looks up, including repeats.
        distinct_rows: Distinct rows; a larger cache has no further benefit.
        points: Hit rates at sizes 10, 20, 50, 100 and so on; the last is `distinct_rows`.
        targets: Sizes for wanted hit rates.
    """

    layer_id: int
    table_rows: int
    lookups: int
    distinct_rows: int
    points: tuple[CachePoint, ...]
    targets: tuple[CacheTarget, ...]


class CacheSample:
    """Collects the start of a text, and measures the cache curves of its look-ups.

    Memory: 4 bytes a token while it is collected; for the curves, one layer after the other, about
    80 bytes a look-up at most.

    Args:
        addresses: The memory's constants.
        most_tokens: Most tokens to use.

    Attributes:
        tokens: Tokens collected so far.

    Raises:
        InputError: A layer would have more than 2^31 look-ups, or none.
    """

    def __init__(self, addresses: Addresses, most_tokens: int) -> None:
        most = _MOST_LOOKUPS // addresses.n_columns
        if not 0 < most_tokens <= most:
            raise InputError(
                f"The tokens of a cache curve must be in 1..{most:,}, got {most_tokens:,}.",
                "Use a sample of that size.",
                tokens=most_tokens,
            )
        self.tokens = 0
        self._addresses, self._most = addresses, most_tokens
        self._parts: list[Tokens] = []
        self._starts: list[NDArray[np.int64]] = []

    def add(self, batch: TokenBatch) -> None:
        """Add documents; tokens beyond the sample are ignored."""
        taken = batch.tokens[: self._most - self.tokens]
        if len(taken):
            starts = batch.boundaries[:-1]
            self._parts.append(taken.copy())
            self._starts.append(starts[starts < len(taken)] + self.tokens)
            self.tokens += len(taken)

    def layers(self) -> tuple[LayerCache, ...]:
        """Measure the curves of every layer."""
        tokens: Any = np.concatenate(self._parts)
        boundaries = np.concatenate([*self._starts, [self.tokens]])
        layers = self._addresses.layers
        hashers = (Hasher(replace(self._addresses, layers=(layer,))) for layer in layers)
        ids = (hasher.hash_documents(tokens, boundaries)[:, 0] for hasher in hashers)
        return tuple(map(cache_curve, layers, ids))


def cache_curve(layer: LayerAddresses, ids: NDArray[np.int64]) -> LayerCache:
    """Measure the hit rates of caches in front of one layer's table.

    Args:
        layer: The layer's constants.
        ids: Hash ids without offsets, int64 ``[T, C]``; a token's look-ups are in the order of
            its columns.
    """
    rows, distinct = _number_rows(layer, ids)
    half = len(ids) // 2 * ids.shape[1]
    hits = [*_lru_hits(rows, distinct, half), *_static_hits(rows, distinct, half)]
    totals = [len(rows), len(rows) - half] * 2
    steps = (step * 10**power for power in range(1, 20) for step in (1, 2, 5))
    sizes = [*(step for step in steps if step < distinct), distinct]
    rates = [(many[sizes] / total).tolist() for many, total in zip(hits, totals, strict=True)]
    return LayerCache(
        layer_id=layer.layer_id,
        table_rows=layer.hash_rows,
        lookups=len(rows),
        distinct_rows=distinct,
        points=tuple(map(CachePoint, sizes, *rates)),
        targets=tuple(
            CacheTarget(rate, *(_fewest_rows(many, rate * totals[1]) for many in hits[1::2]))
            for rate in TARGETS
        ),
    )


def _fewest_rows(hits: NDArray[np.int64], wanted: float) -> int | None:
    """Return the size of the smallest cache with so many hits, None if there is none."""
    # Hits are whole numbers.
    rows = int(np.searchsorted(hits, np.ceil(wanted - 1e-9)))
    return rows if rows < len(hits) else None


def _number_rows(layer: LayerAddresses, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Number the looked-up rows from 0 ``[T * C]``; return the numbers and their count."""
    from engram.corpus.counts import count_kernels

    numbered = np.empty(ids.shape, np.int32)
    count = 0
    for column, size in enumerate(layer.heads):
        rows: Any = ids[:, column].copy()
        count = count_kernels.number_rows(rows, np.full(size, -1, np.int32), count)
        numbered[:, column] = rows
    return numbered.reshape(-1), count


def _lru_hits(rows: NDArray[np.int32], distinct: int, half: int) -> NDArray[np.int64]:
    """Return the hits of LRU caches of 0, 1, 2 ... rows, for all look-ups and the second half."""
    from engram.corpus.counts import count_kernels

    words = -(-len(rows) // 64)
    hits: NDArray[np.int64] = np.zeros((2, distinct + 1), np.int64)
    count_kernels.stack_distances(
        rows,
        half,
        np.full(distinct, -1, np.int32),
        np.zeros(words, np.uint64),
        np.zeros(words + 1, np.int32),
        hits,
    )
    return np.cumsum(hits, axis=1, out=hits)


def _static_hits(
    rows: NDArray[np.int32], distinct: int, half: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the hits of the best fixed sets of 0, 1, 2 ... rows, cold and warm."""
    before, after = (np.bincount(part, minlength=distinct) for part in (rows[:half], rows[half:]))
    cold = np.sort(before + after)[::-1] - 1
    # A row that is not in the first half cannot be selected.
    chosen = np.argsort(-before, kind="stable")
    warm = np.where(before[chosen] > 0, after[chosen], 0)
    return np.insert(np.cumsum(cold), 0, 0), np.insert(np.cumsum(warm), 0, 0)

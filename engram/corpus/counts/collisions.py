"""Rows that the distinct n-grams of one order read in one layer, and how many of them collide."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engram.corpus.counts.distinct import DistinctWindows

# Mixes stay below it, so heads whose primes have a larger product distinguish all mixes.
_MIXES = 2**63


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


@dataclass(frozen=True)
class OrderRows:
    """Rows of the n-grams of one order in one layer.

    Attributes:
        hits: Rows that they read, by head; None where the set of n-grams is a sample.
        collisions: Their collisions.
    """

    hits: tuple[int, ...] | None
    collisions: OrderCollisions


def order_rows(
    order: int, windows: DistinctWindows, multipliers: Sequence[int], primes: Sequence[int]
) -> OrderRows:
    """Count the rows and collisions of one layer and order; estimate those of a sample.

    Memory: 14 bytes for each distinct n-gram, up to 28 where some do not collide, and one for each
    row of one head, on every thread that does this at the same time.

    Args:
        order: n of the n-grams.
        windows: The distinct n-grams of the text.
        multipliers: The layer's multipliers, at least n of them.
        primes: Rows of each head.
    """
    distinct = windows.count()
    if not windows.is_exact or not distinct:
        none = (0,) * len(primes) if windows.is_exact else None
        return OrderRows(none, _estimate(order, distinct, primes))
    from engram.corpus.counts import count_kernels

    mixes = windows.mixes(np.array(multipliers[:order], dtype=np.uint64))
    # In how many heads an n-gram is alone in its row.
    alone: Any = None
    hits = []
    for prime in primes:
        taken = np.zeros(prime, np.uint8)
        is_full = count_kernels.fill_rows(mixes, np.uint64(prime), taken)
        hits.append(prime if is_full else int(np.count_nonzero(taken)))
        if not is_full and (taken == 1).any():
            if alone is None:
                alone = np.zeros(distinct, np.uint8 if len(primes) < 2**8 else np.uint16)
            count_kernels.count_alone(mixes, np.uint64(prime), taken, alone)
    product = math.prod(primes)
    if alone is None:
        same = _same_rows(mixes, product) / distinct
        return OrderRows(tuple(hits), OrderCollisions(order, 1.0, 1.0, same, 1.0, 1.0, "exact"))
    any_head, every_head = alone < len(primes), alone == 0
    times = windows.times()
    occurred = int(times.sum(dtype=np.uint64))
    collisions = OrderCollisions(
        order=order,
        any_head=int(any_head.sum()) / distinct,
        every_head=int(every_head.sum()) / distinct,
        same_rows=_same_rows(mixes[every_head], product) / distinct,
        occurrences_any_head=int(times.sum(where=any_head, dtype=np.uint64)) / occurred,
        occurrences_every_head=int(times.sum(where=every_head, dtype=np.uint64)) / occurred,
        kind="exact",
    )
    return OrderRows(tuple(hits), collisions)


def _same_rows(mixes: Any, product: int) -> int:
    """Return how many n-grams have the rows of another in all heads.

    Args:
        mixes: Mixes of the n-grams that share their row of every head; written to.
        product: Product of the primes: mixes of equal rows in all heads leave the same remainder.
    """
    from engram.corpus.counts import count_kernels

    if product < _MIXES:
        mixes %= np.uint64(product)
    # Few are left to be sorted, which takes long: those with the bit of another.
    words = 2 ** max(len(mixes) // 8, 1).bit_length()
    once, twice = np.zeros((2, words), np.uint64)
    mixes = mixes[: count_kernels.keep_suspects(mixes, once, twice)]
    mixes.sort()
    equal = mixes[1:] == mixes[:-1]
    # Each of a run of equal mixes but its first, and the firsts.
    firsts = np.count_nonzero(equal[1:] & ~equal[:-1]) + np.count_nonzero(equal[:1])
    return int(np.count_nonzero(equal) + firsts)


def _estimate(order: int, distinct: int, primes: Sequence[int]) -> OrderCollisions:
    others = max(distinct - 1, 0)
    alone = [math.exp(others * math.log1p(-1 / prime)) for prime in primes]
    any_head = 1 - math.prod(alone)
    every_head = math.prod(1 - part for part in alone)
    return OrderCollisions(order, any_head, every_head, None, any_head, every_head, "estimated")

"""Rows hit are those of numpy, and heads whose rows were all hit are not marked any more."""

from __future__ import annotations

import numpy as np
import pytest

from engram.corpus.counts import count_kernels
from engram.corpus.counts.order_counts import Piece, RowsHit

MULTIPLIERS = (7_368_787, 104_729, 15_485_863)


def piece_of(rng, tokens=400):
    ids = rng.integers(0, 3000, tokens).astype(np.uint32)
    return Piece(ids, np.array([0, tokens]), fill=0, cuts=[(0, tokens // 2), (tokens // 2, tokens)])


def mixes_of(piece):
    windows = np.concatenate([slots.copy() for slots in piece.windows(3)], axis=1)
    factors = np.array(MULTIPLIERS, np.uint64)[:, None]
    return np.bitwise_xor.reduce(windows.astype(np.uint64) * factors, axis=0)


def rows_of(mixes, primes):
    return tuple(len(np.unique(mixes % np.uint64(prime))) for prime in primes)


@pytest.mark.parametrize(
    "primes", [(2, 5, 101), (101, 5, 2), (97, 1009, 101, 646_403), (646_403,)], ids=str
)
@pytest.mark.parametrize("from_a_set", [False, True])
def test_rows_hit_are_those_of_numpy(primes, from_a_set):
    rng = np.random.default_rng(len(primes))
    rows, mixes = RowsHit(MULTIPLIERS, primes), np.empty(0, np.uint64)
    for index in range(60):
        piece = piece_of(rng)
        mixes = np.concatenate([mixes, mixes_of(piece)])
        if from_a_set and index == 0:
            rows.add_mixes(mixes)
        else:
            rows.add(piece, 0)
        assert rows.hits() == rows_of(mixes, primes)


def test_full_heads_are_left_out(monkeypatch):
    marked = []
    mark_rows = count_kernels.mark_rows

    def recorded(slots, multipliers, primes, bases, bits):
        marked.append(primes.tolist())
        mark_rows(slots, multipliers, primes, bases, bits)

    monkeypatch.setattr(count_kernels, "mark_rows", recorded)
    rng = np.random.default_rng(1)
    rows = RowsHit(MULTIPLIERS, (97, 4001, 101))
    for _ in range(400):
        rows.add(piece_of(rng), 0)
    assert marked[0] == [97, 4001, 101]
    assert [4001] in marked
    assert rows.hits() == (97, 4001, 101)
    size = len(marked)
    rows.add(piece_of(rng), 0)
    assert len(marked) == size
    assert rows.hits() == (97, 4001, 101)

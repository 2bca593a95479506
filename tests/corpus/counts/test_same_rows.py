"""n-grams with the same rows in all heads are counted exactly, however many there are."""

from collections import Counter

import numpy as np
import pytest

from engram.corpus.counts.collisions import _same_rows
from engram.corpus.counts.count_kernels import keep_suspects


@pytest.mark.parametrize("size", [0, 1, 2, 3, 63, 64, 65, 1000, 50_000])
@pytest.mark.parametrize("values", [1, 50, 10**5, 2**63 - 1])
@pytest.mark.parametrize("product", [7, 10**9, 2**80])
def test_counts_are_those_of_every_value(size, values, product):
    mixes = np.random.default_rng(size).integers(0, values, size, dtype=np.uint64)
    times = Counter((mixes % product).tolist() if product < 2**63 else mixes.tolist())
    assert _same_rows(mixes, product) == sum(count for count in times.values() if count > 1)


def test_few_of_different_mixes_are_left():
    mixes = np.random.default_rng(0).integers(0, 2**63, 100_000, dtype=np.uint64)
    mixes[70_000:70_010] = mixes[:10]
    twice = set(mixes[:10].tolist())
    once, again = np.zeros((2, 2**14), np.uint64)
    kept = mixes[: keep_suspects(mixes, once, again)]
    assert len(kept) < 20_000
    assert sum(mix in twice for mix in kept.tolist()) == 20

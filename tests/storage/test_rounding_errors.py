"""Values and what was stored of them, compared: sizes, dtypes, values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engram.storage.row_encodings.rounding_errors import rounding_errors

SIZES = pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 5), (4, 64), (31, 40), (257, 1)])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def pair(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    before = rng.normal(size=shape).astype(dtype)
    return before, (before + rng.normal(size=shape) / 7).astype(dtype)


@SIZES
@DTYPES
def test_they_are_those_of_numpy(shape, dtype):
    before, after = pair(shape, dtype)
    error = (after - before).astype(np.float64)
    largest, squares, values = rounding_errors(before, after)
    assert largest == np.abs(error).max(initial=0)
    assert squares == pytest.approx(math.fsum((error**2).flat), rel=1e-12)
    assert values == pytest.approx(math.fsum((before.astype(np.float64) ** 2).flat), rel=1e-12)


@DTYPES
@pytest.mark.parametrize("place", [0, 255, 256, 299])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("changed", [(0,), (1,), (0, 1)], ids=["before", "after", "both"])
def test_what_is_not_finite_shows(dtype, place, value, changed):
    both = pair((3, 100), dtype)
    for index in changed:
        both[index].flat[place] = value
    assert not all(map(math.isfinite, rounding_errors(*both)))


def test_rows_that_lie_apart():
    before, after = pair((40, 60), np.float32)
    apart = rounding_errors(before[:, ::2], after[:, ::2])
    assert apart == rounding_errors(before[:, ::2].copy(), after[:, ::2].copy())

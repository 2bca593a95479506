"""Compiled rounding agrees with the plain forms to the bit, and refuses what could differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engram.nn.quantised import quantise_fp8, quantise_int8
from engram.storage.row_encodings.rounding import round_rows
from engram.storage.row_encodings.rounding_kernels import (
    LEAST_VALUES,
    fp8_rows,
    int8_rows,
    q8_0_blocks,
)


def values(rows, width, seed):
    """Rows of many magnitudes, with zeros of both signs, ties and rows of zeros among them."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(rows, width)) * np.exp2(rng.integers(-70, 70, size=(rows, 1)))
    found[rng.random(found.shape) < 0.05] = -0.0
    found[::17] = rng.integers(-254, 255, size=found[::17].shape) / 2
    found[::17, 0] = 127
    found[::19] = 0
    # Within a block, too, from one end of e4m3 to the other.
    found[::5] *= np.exp2(-rng.integers(0, 20, size=found[::5].shape))
    return found.astype(np.float32)


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy()


@pytest.mark.parametrize("width", [32, 40, 1, 160])
def test_they_agree_with_the_plain_forms(width):
    rows = values(700, width, seed=width)
    assert rows.size < LEAST_VALUES  # so that the plain forms are taken
    tensor = torch.from_numpy(rows)
    for made, plain in (
        (int8_rows(rows), quantise_int8(tensor)),
        (fp8_rows(rows, 32), quantise_fp8(tensor)),
    ):
        for part, expected in zip(made, plain, strict=True):
            assert np.array_equal(part.view(np.uint8), as_bytes(expected))
    if width % 32 == 0:
        blocks = rows.reshape(-1, 32)
        kept = np.abs(blocks).max(axis=1)
        blocks = blocks[(kept == 0) | (kept > 1e-20)]
        with np.errstate(over="ignore"):
            assert np.array_equal(q8_0_blocks(blocks), round_rows("Q8_0", blocks))


def test_large_tables_take_them():
    rows = values(LEAST_VALUES // 64, 64, seed=9)
    tensor, half = torch.from_numpy(rows), len(rows) // 2
    for quantise in (quantise_int8, quantise_fp8):
        parts = zip(quantise(tensor), quantise(tensor[:half]), strict=True)
        assert all(np.array_equal(as_bytes(it[:half]), as_bytes(few)) for it, few in parts)
    rows = np.clip(rows, -1e4, 1e4)
    rows[np.abs(rows) < 1e-4] = 0
    assert np.array_equal(round_rows("Q8_0", rows)[:half], round_rows("Q8_0", rows[:half]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(wrong):
    rows = values(3, 32, seed=1)
    rows[1, 5] = wrong
    assert int8_rows(rows) is None
    assert fp8_rows(rows, 32) is None
    assert q8_0_blocks(rows) is None


def test_rows_whose_reciprocal_could_overflow_are_left_to_the_plain_form():
    rows = np.full((2, 32), 1e-40, np.float32)
    assert int8_rows(rows) is None
    assert q8_0_blocks(rows) is None

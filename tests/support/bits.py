"""Compares float32 values bit by bit."""

import numpy as np


def assert_same_bits(got, expected):
    """Assert that values have the same bits, and that the same ones are not numbers."""
    assert (got.shape, got.dtype, expected.dtype) == (expected.shape, np.float32, np.float32)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), is_nan)
    differ = (got.view(np.uint32) != expected.view(np.uint32)) & ~is_nan
    assert not differ.any(), (np.argwhere(differ)[:5], got[differ][:5], expected[differ][:5])

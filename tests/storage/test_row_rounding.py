"""Rows that are rounded are those of ggml's own numpy code, bit for bit."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from engram.errors import LayoutError
from engram.storage.row_encodings.known_encodings import row_encoding
from engram.storage.row_encodings.rounding import ROUNDED, round_rows


@pytest.mark.parametrize("name", ROUNDED)
def test_rows_are_those_of_the_gguf_package(name):
    generator = np.random.default_rng(3)
    values = generator.normal(size=(300, 96)).astype(np.float32)
    values *= np.exp2(generator.integers(-12, 12, (300, 1))).astype(np.float32)
    values[7] = 0
    values[8, :32] = [(step + 0.5) / 127 * 8 for step in range(-16, 16)]  # ties
    values[8, 3] = 8
    expected = gguf.quants.quantize(values, Type[name])
    stored = round_rows(name, values)
    np.testing.assert_array_equal(stored, expected.view(np.uint8).reshape(300, -1))
    decoded = row_encoding(name).decode(stored)
    assert np.abs(decoded - values).max() <= np.abs(values).max() / 200


def test_other_encodings_are_refused():
    with pytest.raises(LayoutError, match="rounded to Q4_K"):
        round_rows("Q4_K", np.zeros((1, 256), np.float32))

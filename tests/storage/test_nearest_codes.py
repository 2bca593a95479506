"""The nearest values that an encoding could have stored, found from its decoder alone."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from engram.errors import LayoutError
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS
from engram.storage.row_encodings.nearest_codes import nearest_values

FLOATS = {"F32": np.float32, "F16": np.float16}


def random_rows(name, rows=6):
    """Rows of random bytes that are of no encoding's NaN, and their values."""
    encoding = ROW_ENCODINGS[name]
    generator = np.random.default_rng(7)
    blocks = 1 if encoding.is_row else 2
    stored = [
        generator.integers(64, 95, (rows, blocks * part.itemsize)).astype(np.uint8)
        for part in encoding.parts
    ]
    return stored, encoding.decode(*stored).astype(np.float64)


@pytest.mark.parametrize("name", sorted(ROW_ENCODINGS))
def test_what_is_stored_is_nearest_to_itself(name):
    stored, values = random_rows(name)
    assert np.array_equal(nearest_values(name, stored, values), values)
    # A hundredth of the way to any other value, it still is.
    gap = np.abs(values).max(axis=1, keepdims=True) * 1e-4
    assert np.abs(nearest_values(name, stored, values + gap) - values).max() <= 2.01 * gap.max()


def nearest_of(levels, wanted):
    """The nearest of the levels of each block of 32 ``[n, blocks, levels]``."""
    goal = wanted.reshape(*levels.shape[:2], 32, 1)
    at = np.abs(levels[:, :, np.newaxis] - goal).argmin(axis=-1)
    return np.take_along_axis(levels, at, axis=-1).reshape(wanted.shape)


LEVELS = {
    "Q8_0": np.arange(-128, 128),
    "Q4_0": np.arange(-8, 8),
    "IQ4_NL": np.array(gguf.quants.IQ4_NL.kvalues),
}


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_it_is_the_nearest_of_all_levels(name):
    stored, values = random_rows(name)
    scales = stored[0].reshape(6, 2, -1)[:, :, :2].copy().view("<f2").astype(np.float64)
    wanted = values + np.random.default_rng(8).normal(size=values.shape) * scales.max()
    expected = nearest_of(scales * LEVELS[name], wanted)
    assert np.allclose(np.abs(nearest_values(name, stored, wanted) - wanted),
                       np.abs(expected - wanted))  # fmt: skip


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0", "MXFP4"])
def test_an_encoder_of_ggml_rounds_no_better(name):
    wanted = np.random.default_rng(9).normal(size=(20, 256))
    kind = gguf.GGMLQuantizationType[name]
    stored = gguf.quants.quantize(wanted.astype(np.float32), kind)
    values = gguf.quants.dequantize(stored, kind)
    error, least = (
        np.linalg.norm(it - wanted, axis=1)
        for it in (values, nearest_values(name, [stored], wanted))
    )
    assert (least <= error).all()
    assert (error < 1.2 * least).all()


def test_floats_are_rounded():
    wanted = np.random.default_rng(10).normal(size=(5, 7))
    for name, dtype in FLOATS.items():
        assert np.array_equal(nearest_values(name, [], wanted), wanted.astype(dtype))
    found = nearest_values("BF16", [], wanted)
    bits = found.astype(np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    assert np.abs(found - wanted).max() <= np.abs(wanted).max() * 2**-8
    other = (bits.astype(np.int64) + 0x10000).astype(np.uint32).view(np.float32)
    assert (np.abs(other - wanted) >= np.abs(found - wanted)).all()


def test_an_unknown_encoding_is_refused():
    with pytest.raises(LayoutError, match="unknown encoding"):
        nearest_values("type 144", [], np.zeros((1, 32)))

"""Encodings of ggml give the bits that the package `gguf` gives, whatever the bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from engram.storage.row_encodings.ggml_encodings import GGML_ENCODINGS
from engram.storage.row_encodings.known_encodings import row_bytes, row_encoding
from support.bits import assert_same_bits

ROWS, WIDTH = 3000, 512
NAMES = [encoding.name for encoding in GGML_ENCODINGS]
# Where the f16 scales of a block lie, as ggml's structs have them.
SCALES_AT = {
    "F16": (0,),
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q5_0": (0,),
    "IQ4_NL": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
}
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0xBC00]
NOT_FINITE = [0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01]


def random_rows(name, *, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (ROWS, row_bytes(name, WIDTH)), dtype=np.uint8)


def set_scales(name, rows, choose):
    """Replace each f16 scale by what `choose` makes of all of them."""
    blocks = rows.reshape(-1, row_encoding(name).block_bytes)
    for at in SCALES_AT[name]:
        scales = np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")
        blocks[:, at : at + 2] = choose(scales).astype("<u2").view(np.uint8)


def by_gguf(name, rows):
    with np.errstate(all="ignore"):
        return dequantize(rows, gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", NAMES)
def test_blocks_have_the_sizes_of_ggml(name):
    encoding = row_encoding(name)
    expected = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (encoding.block_values, encoding.block_bytes) == expected


@pytest.mark.parametrize("name", [*SCALES_AT, "MXFP4"])
def test_random_bytes_with_finite_scales(name):
    rows = random_rows(name)
    if name in SCALES_AT:
        # An exponent of ones becomes one less.
        set_scales(name, rows, lambda it: np.where(it & 0x7C00 == 0x7C00, it & 0xFBFF, it))
    got = row_encoding(name).decode(rows)
    assert got.shape == (ROWS, WIDTH)
    assert got.dtype == np.float32
    assert not np.isnan(got).any()
    assert name == "MXFP4" or np.isfinite(got).all()
    assert_same_bits(got, by_gguf(name, rows))


@pytest.mark.parametrize("scales", [SPECIAL, SPECIAL + NOT_FINITE], ids=["finite", "not finite"])
@pytest.mark.parametrize("name", SCALES_AT)
def test_scales_of_every_kind(name, scales):
    rows, rng = random_rows(name, seed=1), np.random.default_rng(2)
    set_scales(name, rows, lambda it: rng.choice(scales, it.shape))
    got, expected = row_encoding(name).decode(rows), by_gguf(name, rows)
    assert np.isfinite(got).all() == (scales is SPECIAL)
    assert_same_bits(got, expected)


@pytest.mark.parametrize("name", ["BF16", "F32"])
def test_random_floats_and_those_that_are_not_finite(name):
    rows = random_rows(name)
    width = row_encoding(name).block_bytes
    for first, sign in enumerate((0x7F, 0xFF)):
        rows[first::7, :width] = (0,) * (width - 2) + (0x80, sign)
    got = row_encoding(name).decode(rows)
    assert (got[::7, 0] == np.inf).all()
    assert (got[1::7, 0] == -np.inf).all()
    assert np.isnan(got).any()
    assert_same_bits(got, by_gguf(name, rows))


def test_every_exponent_of_mxfp4():
    blocks = np.zeros((256, 17), dtype=np.uint8)
    blocks[:, 0] = np.arange(256)
    blocks[:, 1:] = np.arange(16) * 16 + np.arange(16)[::-1]
    got = row_encoding("MXFP4").decode(blocks)
    assert_same_bits(got, by_gguf("MXFP4", blocks))
    assert np.isinf(got[254]).any()  # 6 * 2^127
    assert got[0, 13] == 2.0**-127  # code 2 in the low nibble of byte 13


def test_order_of_nibbles():
    block = np.zeros((1, 17), dtype=np.uint8)
    block[0, :3] = 127, 0x21, 0x43
    values = row_encoding("MXFP4").decode(block)[0]
    assert values[[0, 1, 16, 17]].tolist() == [0.5, 1.5, 1.0, 2.0]


def test_rows_need_not_lie_together():
    rows = random_rows("Q4_0")[:50]
    apart = np.zeros((100, rows.shape[1] + 3), dtype=np.uint8)[::2, 3:]
    apart[:] = rows
    assert_same_bits(row_encoding("Q4_0").decode(apart), row_encoding("Q4_0").decode(rows))

"""fp8, fp4, lloyd4 and MLX rows against references that decode one value after the other."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from engram.errors import CorruptFileError, InputError, LayoutError
from engram.storage.row_encodings.known_encodings import row_bytes, row_encoding
from engram.storage.row_encodings.mlx_encodings import mlx_affine
from engram.storage.row_encodings.mlx_kinds import MLX_BITS, MLX_GROUP_SIZES
from engram.storage.row_encodings.scaled_encodings import interleave, split
from support.bits import assert_same_bits

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
CODEBOOK = (0.0, 0.095, 0.1901, 0.2944, 0.4126, 0.5586, 0.7484, 1.0)
ROW264, LLOYD4 = row_encoding("e4m3_e8m0_32_row264"), row_encoding("lloyd4_e5m3_32_r136")
FP8, FP4 = row_encoding("e4m3_e8m0_32"), row_encoding("fp4_e8m0_32")


def float32(value):
    """The nearest float32 of a double."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def bfloat16(value):
    """The nearest bfloat16 of a float32, ties to even; infinity beyond the largest."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 2.0 ** (max(math.frexp(value)[1], -125) - 8)
    rounded = round(value / step) * step  # ties to even
    return math.copysign(math.inf if abs(rounded) >= 2.0**128 else rounded, value)


def e4m3(code):
    sign, exponent, mantissa = -1.0 if code >> 7 else 1.0, code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def e8m0(byte):
    return math.nan if byte == 255 else math.ldexp(1.0, byte - 127)


def nibble(row, column):
    byte = row[column // 2]
    return byte >> 4 if column % 2 else byte & 15


def slow(rows, width, value):
    values = [[value(row, column) for column in range(width)] for row in rows]
    return np.array(values, dtype=np.float64).astype(np.float32)


def row264_value(row, column):
    return bfloat16(float32(e4m3(row[column]) * e8m0(row[256 + column // 32])))


def lloyd4_value(row, column):
    code, scale = nibble(row, column), row[128 + column // 32]
    codebook = float32(CODEBOOK[code & 7])
    factor = (8 + (scale & 7)) / 16 * 2.0 ** ((scale >> 3) - 16)
    return bfloat16(float32(math.copysign(codebook, -1 if code >> 3 else 1) * factor))


def fp4_value(row, column):
    code = nibble(row, column)
    sign = -1.0 if code >> 3 else 1.0
    return float32(sign * E2M1[code & 7] * e8m0(row[128 + column // 32]))


def random_bytes(rows, width, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, width), dtype=np.uint8)


def finite_row264(rows):
    stored = random_bytes(rows, 264)
    stored[:, :256][(stored[:, :256] & 127) == 127] = 0x7E
    stored[:, 256:] %= 255
    stored[0, 256:] = [0, 1, 2, 3, 4, 246, 253, 254]
    return stored


def test_row264():
    stored = finite_row264(150)
    expected = slow(stored.tolist(), 256, row264_value)
    assert np.isinf(expected).any()
    assert_same_bits(ROW264.decode(stored), expected)


def test_row264_of_ordinary_scales_is_what_the_two_tensors_hold():
    stored = finite_row264(2000)
    stored[:, 256:] = stored[:, 256:] % 128 + 64
    assert_same_bits(ROW264.decode(stored), FP8.decode(*split(stored)))


def test_row264_rounds_to_bfloat16_below_its_smallest_step():
    stored = np.zeros((1, 264), dtype=np.uint8)
    stored[0, :4] = 1, 4, 5, 12  # 2^-9, 2^-7, 1.25 * 2^-7, 1.5 * 2^-6, all times 2^-127
    exact = FP8.decode(*split(stored))[0, :4]
    assert exact.tolist() == [2.0**-136, 2.0**-134, 1.25 * 2.0**-134, 1.5 * 2.0**-133]
    assert ROW264.decode(stored)[0, :4].tolist() == [0, 0, 2.0**-133, 2.0**-132]


@pytest.mark.parametrize("encoding", [ROW264, FP8], ids=lambda it: it.name)
def test_scale_byte_zero_is_a_power_of_two_too(encoding):
    stored = np.zeros((1, 264), dtype=np.uint8)
    stored[0, 32:64] = 0x38  # 1.0
    tensors = split(stored) if encoding is FP8 else (stored,)
    values = encoding.decode(*tensors)[0]
    assert (values[32:64] == 2.0**-127).all()
    assert not values[:32].any()
    assert not values[64:].any()


@pytest.mark.parametrize(
    ("column", "byte", "kind"),
    [(7, 0x7F, "code 7 = 0x7F"), (255, 0xFF, "code 255 = 0xFF"), (258, 255, "scale 2 = 0xFF")],
)
def test_row264_refuses_what_is_not_a_number_and_two_tensors_pass_it_on(column, byte, kind):
    stored = finite_row264(4)
    stored[2, column] = byte
    with pytest.raises(CorruptFileError, match=f"Row 2 .* has {kind}") as caught:
        ROW264.decode(stored)
    details = caught.value.details
    assert (details["row"], details["byte"]) == (2, byte)
    expected = np.zeros((4, 256), dtype=bool)
    expected[2, slice(64, 96) if column > 255 else column] = True
    np.testing.assert_array_equal(np.isnan(FP8.decode(*split(stored))), expected)


def test_fp8_in_two_tensors_of_any_width():
    codes, scales = random_bytes(100, 96), random_bytes(100, 3, seed=1)
    rows = np.concatenate([codes, scales], axis=1).tolist()
    expected = slow(rows, 96, lambda row, it: float32(e4m3(row[it]) * e8m0(row[96 + it // 32])))
    assert_same_bits(FP8.decode(codes, scales), expected)


def test_fp4():
    codes, scales = random_bytes(300, 128), random_bytes(300, 8, seed=1)
    rows = np.concatenate([codes, scales], axis=1).tolist()
    expected = slow(rows, 256, fp4_value)
    assert np.isnan(expected).any()
    assert_same_bits(FP4.decode(codes, scales), expected)


def test_fp4_and_mxfp4_order_the_same_bytes_in_two_ways():
    codes, scale = random_bytes(50, 16), np.full((50, 1), 120, dtype=np.uint8)
    fp4 = FP4.decode(codes, scale)
    mxfp4 = row_encoding("MXFP4").decode(np.concatenate([scale, codes], axis=1))
    # Even columns are ggml's first half, odd columns its second.
    np.testing.assert_array_equal(np.concatenate([fp4[:, ::2], fp4[:, 1::2]], axis=1), mxfp4)
    assert (fp4 != mxfp4).mean() > 0.5
    # The zero of code 8 has a sign in E2M1, and none in ggml.
    assert np.signbit(fp4[fp4 == 0]).any()
    assert not np.signbit(mxfp4[mxfp4 == 0]).any()


def test_lloyd4():
    stored = random_bytes(300, 136)
    stored[:32, 128:] = np.arange(256, dtype=np.uint8).reshape(32, 8)
    assert_same_bits(LLOYD4.decode(stored), slow(stored.tolist(), 256, lloyd4_value))


def test_known_values_of_lloyd4():
    stored = np.zeros((1, 136), dtype=np.uint8)
    stored[0, 0], stored[0, 128] = 0x7F, 16 << 3  # 8/16
    assert LLOYD4.decode(stored)[0, :3].tolist() == [-0.5, 0.5, 0]


def test_equal_bytes_are_not_equal_encodings():
    stored = random_bytes(20, 136)
    assert row_bytes("MXFP4", 256) == row_bytes(LLOYD4.name, 256) == stored.shape[1]
    assert (LLOYD4.decode(stored) != row_encoding("MXFP4").decode(stored)).mean() > 0.9


def test_interleaving_and_back():
    codes, scales = random_bytes(30, 256), random_bytes(30, 8, seed=1)
    rows = interleave(codes, scales)
    assert rows.shape == (30, 264)
    assert rows[3].tobytes() == codes[3].tobytes() + scales[3].tobytes()
    for part, original in zip(split(rows), (codes, scales), strict=True):
        np.testing.assert_array_equal(part, original)


@pytest.mark.parametrize(("codes", "scales"), [((3, 256), (3, 7)), ((3, 256), (2, 8))])
def test_scales_that_do_not_belong_to_the_codes(codes, scales):
    with pytest.raises(LayoutError, match=r"one scale for each 32 columns"):
        interleave(np.zeros(codes, dtype=np.uint8), np.zeros(scales, dtype=np.uint8))


def test_rows_that_are_no_codes_with_scales():
    with pytest.raises(LayoutError, match="multiple of 33 bytes, got 256"):
        split(np.zeros((2, 256), dtype=np.uint8))


def mlx_scalars(dtype, shape, *, seed):
    """Random numbers, and their bytes."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if dtype == "float16":
        values = values.astype(np.float16)
        return values.astype(np.float64), values.view(np.uint8)
    if dtype == "bfloat16":
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64), bits.view(np.uint8)
    return values.astype(np.float64), values.view(np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("group_size", MLX_GROUP_SIZES)
@pytest.mark.parametrize("bits", MLX_BITS)
def test_mlx_affine(bits, group_size, dtype):
    width, rows = 2 * group_size, 20
    packed = random_bytes(rows, width * bits // 8)
    scales, scale_bytes = mlx_scalars(dtype, (rows, 2), seed=1)
    biases, bias_bytes = mlx_scalars(dtype, (rows, 2), seed=2)

    def value(index, column):
        words = struct.unpack(f"<{width * bits // 32}I", packed[index].tobytes())
        bit = sum((word << 32 * place) for place, word in enumerate(words)) >> column * bits
        group = column // group_size
        product = float32(bit % 2**bits * scales[index, group])
        return float32(product + biases[index, group])

    encoding = row_encoding(f"mlx_affine_b{bits}_g{group_size}_{dtype}")
    assert encoding.name == mlx_affine(bits, group_size, dtype).name
    got = encoding.decode(packed, scale_bytes, bias_bytes)
    assert_same_bits(got, slow(range(rows), width, value))
    stored = packed.shape[1] + scale_bytes.shape[1] + bias_bytes.shape[1]
    assert row_bytes(encoding.name, width) == stored


def test_codes_of_mlx_that_lie_across_bytes():
    one, zero = (np.full((1, 1), it, dtype="<f4").view(np.uint8) for it in (1, 0))
    # Codes 0 to 7 of three bits each, as the three bytes that MLX makes of them, lowest bits first.
    packed = np.array([[0b10001000, 0b11000110, 0b11111010] * 4], dtype=np.uint8)
    codes = mlx_affine(3, 32, "float32").decode(packed, one, zero)[0]
    assert codes.tolist() == [*range(8)] * 4


@pytest.mark.parametrize(
    ("bits", "group_size", "dtype"), [(7, 32, "float16"), (4, 16, "float16"), (4, 64, "int8")]
)
def test_what_mlx_cannot_do(bits, group_size, dtype):
    with pytest.raises(LayoutError, match=f"bits={bits}, group_size={group_size} and scales"):
        mlx_affine(bits, group_size, dtype)
    with pytest.raises(InputError):
        mlx_affine(4, 64, "uint32")

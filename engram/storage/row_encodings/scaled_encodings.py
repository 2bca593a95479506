"""Encodings with a scale byte for each 32 or 16 columns: V4.1's own fp8, fp4, lloyd4, and NVFP4.

Shapes: n rows, B blocks, width columns of a row.
"""

import numpy as np
from numpy.typing import NDArray

from engram.errors import CorruptFileError, LayoutError
from engram.storage.dtypes import FP8_SCALE_BLOCK
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS
from engram.storage.row_encodings.rounding import to_bfloat16
from engram.storage.row_encodings.row_encoding import RowEncoding, part
from engram.storage.stored_values import decode

# Columns of a row of DeepSeek-V4.1, and the scales of one.
_WIDTH = 256
_SCALES = _WIDTH // FP8_SCALE_BLOCK
_NVFP4_BLOCK = 16
_SIGNS = ((1,), (-1,))
_E2M1 = np.outer(_SIGNS, [0, 0.5, 1, 1.5, 2, 3, 4, 6]).ravel().astype(np.float32)
_LLOYD4 = (
    np.outer(_SIGNS, [0, 0.095, 0.1901, 0.2944, 0.4126, 0.5586, 0.7484, 1])
    .ravel()
    .astype(np.float32)
)

Blocks = NDArray[np.void]
Values = NDArray[np.float32]


def interleave(codes: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put the scales of rows after their fp8 codes: 256 + 8 bytes become rows of 264.

    Args:
        codes: Bytes ``[n, width]``.
        scales: Bytes ``[n, width / 32]``.

    Returns:
        Rows ``[n, width + width / 32]``.

    Raises:
        LayoutError: The scales are not one for each 32 codes.
    """
    rows, width = codes.shape
    if width % FP8_SCALE_BLOCK or scales.shape != (rows, width // FP8_SCALE_BLOCK):
        raise LayoutError(
            f"Rows of fp8 codes have one scale for each {FP8_SCALE_BLOCK} columns, got codes "
            f"{[rows, width]} and scales {list(scales.shape)}.",
            "Take codes and scales of the same rows.",
            codes=[rows, width],
            scales=list(scales.shape),
        )
    return np.concatenate([codes, scales], axis=1)


def split(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Take rows apart into fp8 codes and scales: the inverse of `interleave`.

    Args:
        rows: Bytes ``[n, width + width / 32]``.

    Returns:
        Codes ``[n, width]`` and scales ``[n, width / 32]``, as views.

    Raises:
        LayoutError: Rows of so many bytes are not codes and their scales.
    """
    scales, left = divmod(rows.shape[1], FP8_SCALE_BLOCK + 1)
    if left:
        raise LayoutError(
            f"Rows of fp8 codes with their scales have a multiple of {FP8_SCALE_BLOCK + 1} bytes, "
            f"got {rows.shape[1]}.",
            "DeepSeek-V4.1's rows have 264.",
            row_bytes=rows.shape[1],
        )
    return rows[:, : scales * FP8_SCALE_BLOCK], rows[:, scales * FP8_SCALE_BLOCK :]


def _fp8(codes: Blocks, scales: Blocks) -> Values:
    # The product is exact in float64, and in float32 unless it is beyond it.
    product = decode(codes["codes"], "F8_E4M3") * decode(scales["scale"], "F8_E8M0")
    values: Values = product.astype(np.float32)
    return values


def _fp4(codes: Blocks, scales: Blocks) -> Values:
    factors = decode(scales["scale"], "F8_E8M0").astype(np.float32)
    values: Values = _pairs(_E2M1)[codes["codes"]].reshape(-1, FP8_SCALE_BLOCK) * factors
    return values


def _nvfp4(codes: Blocks, scales: Blocks) -> Values:
    # Exact: two bits of a mantissa times four.
    factors = decode(scales["scale"], "F8_E4M3").astype(np.float32)
    values: Values = _pairs(_E2M1)[codes["codes"]].reshape(-1, _NVFP4_BLOCK) * factors
    return values


def _row264(rows: Blocks) -> Values:
    codes, scales = decode(rows["codes"], "F8_E4M3"), decode(rows["scales"], "F8_E8M0")
    _refuse_nan("code", codes, rows["codes"])
    _refuse_nan("scale", scales, rows["scales"])
    values = codes.reshape(-1, _SCALES, FP8_SCALE_BLOCK) * scales[..., np.newaxis]
    return _rounded_to_bfloat16(values.astype(np.float32))


def _refuse_nan(kind: str, values: NDArray[np.float64], stored: NDArray[np.uint8]) -> None:
    """Refuse bytes that stand for no number, as ds4 does.

    Raises:
        CorruptFileError: There is one.
    """
    if (is_nan := np.isnan(values)).any():
        row, column = (int(index) for index in np.argwhere(is_nan)[0])
        byte = int(stored[row, column])
        raise CorruptFileError(
            f"Row {row} of those that were read has {kind} {column} = 0x{byte:02X}, which is not "
            "a number.",
            "No table has such bytes: compare the row with the checkpoint that it was made from.",
            row=row,
            column=column,
            byte=byte,
        )


def _lloyd4(rows: Blocks) -> Values:
    scale_bytes = rows["scales"].astype(np.int32)
    eighths = np.float32(8) + (scale_bytes & 7).astype(np.float32)
    scales = np.ldexp(eighths, (scale_bytes >> 3) - 20)  # (8 + M) / 16 * 2^(E - 16)
    values = _pairs(_LLOYD4)[rows["codes"]].reshape(-1, _SCALES, FP8_SCALE_BLOCK)
    return _rounded_to_bfloat16(values * scales[..., np.newaxis])


def _pairs(of_nibbles: Values) -> Values:
    """The two values of every byte ``[256, 2]``: that of the low nibble comes first."""
    codes = np.arange(256)
    return of_nibbles[np.stack([codes & 15, codes >> 4], axis=1)]


def _rounded_to_bfloat16(values: Values) -> Values:
    return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


_SCALE = part(("scale", "u1", 1))
SCALED_ENCODINGS = (
    # ds4's rows. It refuses NaN, and rounds to bfloat16: only values below 2^-130 can change.
    RowEncoding(
        ROW264,
        _WIDTH,
        (part(("codes", "u1", _WIDTH), ("scales", "u1", _SCALES)),),
        _row264,
        is_row=True,
    ),
    # The same bytes in two tensors, safetensors or I8: NaN stays NaN, nothing is rounded.
    RowEncoding(TWO_TENSORS, FP8_SCALE_BLOCK, (part(("codes", "u1", 32)), _SCALE), _fp8),
    RowEncoding("fp4_e8m0_32", FP8_SCALE_BLOCK, (part(("codes", "u1", 16)), _SCALE), _fp4),
    # modelopt multiplies by a float32 of the tensor, too; MLX does not.
    RowEncoding("nvfp4", _NVFP4_BLOCK, (part(("codes", "u1", 8)), _SCALE), _nvfp4),
    RowEncoding(
        "lloyd4_e5m3_32_r136",
        _WIDTH,
        (part(("codes", "u1", _WIDTH // 2), ("scales", "u1", _SCALES)),),
        _lloyd4,
        is_row=True,
    ),
)

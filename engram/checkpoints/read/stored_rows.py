"""Reads single rows of a stored table, in numpy: whatever its dtype, nothing else is read."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.units import FP8_SCALE_BLOCK

_E8M0_BIAS, _E8M0_NAN = 127, 255


def read_rows(table: StoredTensor, row_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Read rows of a table.

    Args:
        table: The table, in files.
        row_ids: Rows, within the table ``[n]``.

    Returns:
        Their values ``[n, width]``; every stored format fits float64 exactly.
    """
    out = np.empty((len(row_ids), table.width))
    for i, row in enumerate(row_ids.tolist()):
        raw = table.read_bytes(row, 1)
        if table.float_scales:
            out[i] = _e4m3_values()[raw] * table.row_factors(row, 1)
        elif table.dtype == "fp8":
            scales = table.read_scale_bytes(row, 1)
            factors = np.ldexp(1.0, scales.astype(np.int32) - _E8M0_BIAS)
            factors[scales == _E8M0_NAN] = np.nan
            out[i] = _e4m3_values()[raw] * factors.repeat(FP8_SCALE_BLOCK)[: table.width]
        elif table.dtype == "int8":
            scale = table.read_scale_bytes(row, 1).view("<f4")
            out[i] = raw.view(np.int8) * scale.astype(np.float64)
        elif table.dtype == "bfloat16":
            out[i] = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            out[i] = raw.view(np.dtype(table.dtype).newbyteorder("<"))
    return out


@cache
def _e4m3_values() -> NDArray[np.float64]:
    """The value of every e4m3 byte: sign, 4 bits of exponent, 3 of mantissa; no infinity."""
    bits = np.arange(256)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    values[(bits & 127) == 127] = np.nan
    signed: NDArray[np.float64] = np.where(bits >> 7, -values, values)
    return signed

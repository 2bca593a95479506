"""Compiled rounding of float32 rows to eight bits: int8, fp8 (e4m3) and Q8_0 of ggml.

Each function does what the plain form beside its caller does, value by value and to the bit, in one
pass instead of about ten; it refuses values for which the two could differ. Largest values are
found as integers, since compilers do not reorder a maximum of floats.

Shapes: R rows, width columns, B blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.storage.machine_code import compiled

# Below so many values a process waits longer for machine code than it saves.
LEAST_VALUES = 2**17
_STEPS = 127
_MAGNITUDE, _INFINITE = 0x7FFFFFFF, 0x7F800000
# Values below give reciprocals that are not finite, or lose bits.
_SMALL = 0x0D800000  # 2^-100
_FP8_FLOOR = 0x38D1B717  # 1e-4
_Q8_0_BLOCK, _SCALE_BYTES = 32, 2

Values = NDArray[np.float32]


def int8_rows(values: Values) -> tuple[NDArray[np.int8], Values] | None:
    """Round rows to steps of a 127th of their largest value, to nearest and ties to even.

    Args:
        values: Values ``[R, width]``.

    Returns:
        Codes ``[R, width]`` and scales ``[R, 1]``; None where a value is not finite, or all of a
        row are very small.
    """
    values = np.ascontiguousarray(values)
    codes, scales = np.empty(values.shape, np.int8), np.empty((len(values), 1), np.float32)
    done = _int8()(values, values.view(np.int32), codes, scales)
    return (codes, scales) if done else None


def fp8_rows(values: Values, block: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Round rows to e4m3 with a power of two for each block, see `engram.nn.quantised`.

    Args:
        values: Values ``[R, width]``.
        block: Columns that share a scale.

    Returns:
        Codes ``[R, width]`` and scales ``[R, ceil(width / block)]`` as bytes; None where a value
        is not finite.
    """
    values = np.ascontiguousarray(values)
    rows, width = values.shape
    codes = np.empty((rows, width), np.uint8)
    scales = np.empty((rows, -(-width // block)), np.uint8)
    done = _fp8()(values, values.view(np.int32), block, codes, scales)
    return (codes, scales) if done else None


def q8_0_blocks(values: Values) -> NDArray[np.uint8] | None:
    """Round blocks of 32 to Q8_0, see `rounding`.

    Args:
        values: Values ``[B, 32]``.

    Returns:
        Bytes ``[B, 34]``; None where a value is not finite, or all of a block are very small.
    """
    values = np.ascontiguousarray(values)
    scales = np.empty((len(values), 1), np.float32)
    stored = np.empty((len(values), _SCALE_BYTES + _Q8_0_BLOCK), np.uint8)
    if not _q8_0()(values, values.view(np.int32), stored.view(np.int8), scales):
        return None
    stored[:, :_SCALE_BYTES] = scales.astype("<f2").view(np.uint8)
    return stored


@cache
def _int8() -> Callable[..., bool]:
    @compiled(nogil=True, error_model="numpy")
    def round_int8(values: Any, bits: Any, codes: Any, scales: Any) -> bool:
        most = np.empty(1, np.float32)
        most_bits = most.view(np.int32)
        for row in range(len(values)):
            largest = np.int32(0)
            for column in range(values.shape[1]):
                largest = max(largest, bits[row, column] & np.int32(_MAGNITUDE))
            if largest >= _INFINITE or 0 < largest < _SMALL:
                return False
            most_bits[0] = largest
            scale = most[0] / np.float32(_STEPS)
            scales[row, 0] = scale
            by = scale if largest else np.float32(1)
            for column in range(values.shape[1]):
                steps = np.rint(values[row, column] / by)
                codes[row, column] = np.int8(np.int32(steps))
        return True

    rounded: Callable[..., bool] = round_int8
    return rounded


@cache
def _fp8() -> Callable[..., bool]:
    @compiled(nogil=True)
    def round_fp8(values: Any, bits: Any, block: int, codes: Any, scales: Any) -> bool:
        width = values.shape[1]
        scaled = np.empty(block, np.float32)
        scaled_bits = scaled.view(np.int32)
        factor = np.empty(1, np.float32)
        factor_bits = factor.view(np.int32)
        for row in range(len(values)):
            for index in range(scales.shape[1]):
                begin = index * block
                size = min(block, width - begin)
                largest = np.int32(_FP8_FLOOR)
                for column in range(size):
                    largest = max(largest, bits[row, begin + column] & np.int32(_MAGNITUDE))
                if largest >= _INFINITE:
                    return False
                # Of the power of two that scales the largest to 448 = 1.75 * 2^8 or below.
                exponent = (largest >> np.int32(23)) - np.int32(127 + 8)
                exponent += np.int32((largest & np.int32(0x7FFFFF)) > 0x600000)
                scales[row, index] = exponent + np.int32(127)
                factor_bits[0] = (np.int32(127) - exponent) << np.int32(23)
                by = factor[0]
                for column in range(size):
                    scaled[column] = abs(values[row, begin + column] * by)
                for column in range(size):
                    whole = scaled_bits[column]
                    odd = (whole >> np.int32(20)) & np.int32(1)
                    code = ((whole + np.int32(0x7FFFF) + odd) >> np.int32(20)) - np.int32(120 << 3)
                    # Below 2^-6 steps are of 2^-9.
                    small = np.int32(np.rint(scaled[column] * np.float32(512)))
                    code = small if whole < np.int32(121 << 23) else code
                    sign = (bits[row, begin + column] >> np.int32(24)) & np.int32(0x80)
                    codes[row, begin + column] = np.uint8(code | sign)
        return True

    rounded: Callable[..., bool] = round_fp8
    return rounded


@cache
def _q8_0() -> Callable[..., bool]:
    @compiled(nogil=True, error_model="numpy")
    def round_q8_0(values: Any, bits: Any, stored: Any, scales: Any) -> bool:
        most = np.empty(1, np.float32)
        most_bits = most.view(np.int32)
        for row in range(len(values)):
            largest = np.int32(0)
            for column in range(_Q8_0_BLOCK):
                largest = max(largest, bits[row, column] & np.int32(_MAGNITUDE))
            if largest >= _INFINITE or 0 < largest < _SMALL:
                return False
            most_bits[0] = largest
            scale = most[0] / np.float32(_STEPS)
            scales[row, 0] = scale
            inverse = np.float32(1) / scale if largest else np.float32(0)
            for column in range(_Q8_0_BLOCK):
                steps = values[row, column] * inverse
                size = abs(steps)
                whole = np.floor(size)
                whole += np.floor(np.float32(2) * (size - whole))
                code = np.int32(whole)
                stored[row, _SCALE_BYTES + column] = np.int8(code if steps > 0 else -code)
        return True

    rounded: Callable[..., bool] = round_q8_0
    return rounded

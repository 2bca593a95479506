"""Rounds rows of floats to encodings of ggml, as ggml itself does.

Shapes: n rows, width columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engram.errors import LayoutError
from engram.storage.row_encodings.rounding_kernels import LEAST_VALUES, q8_0_blocks

_BLOCK, _STEPS = 32, 127
Values = NDArray[np.float32]


def to_bfloat16(values: Values) -> NDArray[np.uint16]:
    """Round float32 to bfloat16, to nearest and ties to even.

    Args:
        values: Values of any shape.

    Returns:
        The upper halves of the rounded float32, of the same shape.
    """
    bits = values.view(np.uint32)
    with np.errstate(over="ignore"):  # a NaN may be carried over, and is put right below
        rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    is_nan = np.isnan(values)
    return np.where(is_nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def round_rows(encoding: str, values: Values) -> NDArray[np.uint8]:
    """Store rows in an encoding.

    Args:
        encoding: One of `ROUNDED`.
        values: Finite values ``[n, width]``.

    Returns:
        Their bytes ``[n, bytes]``; values beyond the encoding become infinite.

    Raises:
        LayoutError: The encoding is another, or rows are not whole blocks of it.
    """
    if encoding not in ROUNDED:
        raise LayoutError(
            f"Rows cannot be rounded to {encoding} here.",
            f"These can be: {', '.join(ROUNDED)}; llama.cpp's llama-quantize makes others of them.",
            encoding=encoding,
        )
    with np.errstate(over="ignore"):
        stored = ROUNDED[encoding](np.ascontiguousarray(values))
    return np.ascontiguousarray(stored).view(np.uint8).reshape(len(values), -1)


def _q8_0(values: Values) -> NDArray[np.uint8]:
    """Take blocks of 32: an f16 scale, then steps of a 127th of the largest value.

    Steps round half away from zero, with the scale as it was before it was rounded to f16.
    """
    blocks = values.reshape(-1, _BLOCK)
    if blocks.size >= LEAST_VALUES and (stored := q8_0_blocks(blocks)) is not None:
        return stored
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(_STEPS)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
    scaled = blocks * inverse
    whole = np.floor(np.abs(scaled))
    rounded = np.sign(scaled) * (whole + np.floor(2 * (np.abs(scaled) - whole)))
    codes = rounded.astype(np.int8).view(np.uint8)
    return np.concatenate([scales.astype("<f2").view(np.uint8), codes], axis=1)


ROUNDED: dict[str, Callable[[Values], NDArray[np.generic]]] = {
    "F32": lambda values: values.astype("<f4"),
    "F16": lambda values: values.astype("<f2"),
    "BF16": to_bfloat16,
    "Q8_0": _q8_0,
}

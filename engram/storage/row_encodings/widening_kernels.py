"""Compiled widening of fp8 rows (e4m3 with scales), which torch converts one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.storage.machine_code import compiled
from engram.storage.stored_values import decode


def fp8_values(
    codes: NDArray[np.uint8], scales: NDArray[np.uint8], rows_per_scale: int, block: int
) -> NDArray[np.float32]:
    """Multiply e4m3 values by the scale of their block, in float32.

    Args:
        codes: Bytes of the values ``[R, width]``.
        scales: Bytes of their scales, e8m0 ``[ceil(R / rows_per_scale), ceil(width / block)]``.
        rows_per_scale: Rows of a block.
        block: Columns of a block.

    Returns:
        Values ``[R, width]``.
    """
    values = np.empty(codes.shape, np.float32)
    factors = decode(scales, "F8_E8M0").astype(np.float32)
    _fp8_values()(codes, _of_codes(), factors, rows_per_scale, block, values)
    return values


@cache
def _of_codes() -> NDArray[np.float32]:
    return decode(np.arange(256, dtype=np.uint8), "F8_E4M3").astype(np.float32)


@cache
def _fp8_values() -> Callable[..., None]:
    @compiled(nogil=True)
    def widen(
        codes: Any, of_codes: Any, factors: Any, rows_per_scale: int, block: int, values: Any
    ) -> None:
        for row in range(len(codes)):
            for index in range(factors.shape[1]):
                factor = factors[row // rows_per_scale, index]
                # Indices of a slice are not compared with zero: twice as fast.
                begin, end = index * block, (index + 1) * block
                of_block, wide = codes[row, begin:end], values[row, begin:end]
                for column in range(len(of_block)):
                    wide[column] = of_codes[of_block[column]] * factor

    widened: Callable[..., None] = widen
    return widened

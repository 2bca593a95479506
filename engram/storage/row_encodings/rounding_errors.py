"""Compiled comparison of values with what was stored of them, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engram.storage.machine_code import compiled

# Sums of so many columns grow beside each other, which compilers turn into vectors; their order,
# and so the last bit, is the same on all processors.
_LANES = 256
_Float = TypeVar("_Float", np.float32, np.float64)


def rounding_errors(before: NDArray[_Float], after: NDArray[_Float]) -> tuple[float, float, float]:
    """Compare values with what was stored of them.

    Args:
        before: The values, of any shape.
        after: The stored values, of the same shape and dtype.

    Returns:
        The largest difference, the sum of the squares of the differences, and that of the values.
        A sum is not finite if any of its values is not.
    """
    most, sums = np.zeros(_LANES, before.dtype), np.zeros((2, _LANES))
    whole = before.size // _LANES * _LANES
    flat = before.reshape(-1), after.reshape(-1)
    rest = np.zeros((2, 1, _LANES), before.dtype)
    for values, row in zip(flat, rest, strict=True):
        row[0, : before.size - whole] = values[whole:]
    rows = (values[:whole].reshape(-1, _LANES) for values in flat)
    _compare()(*rows, most, *sums)
    _compare()(*rest, most, *sums)
    of_errors, of_values = sums.sum(axis=1).tolist()
    return float(most.max()), of_errors, of_values


@cache
def _compare() -> Callable[..., None]:
    @compiled(nogil=True)
    def compare(before: Any, after: Any, most: Any, squares: Any, values: Any) -> None:
        for row in range(len(before)):
            for lane in range(_LANES):
                value = before[row, lane]
                error = abs(after[row, lane] - value)
                most[lane] = error if error > most[lane] else most[lane]
                squares[lane] += np.float64(error) * np.float64(error)
                values[lane] += np.float64(value) * np.float64(value)

    comparison: Callable[..., None] = compare
    return comparison

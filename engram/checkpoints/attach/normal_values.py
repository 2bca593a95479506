"""Normal values by place: the same bytes on any processor, in any order and on many threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.storage.machine_code import compiled
from engram.storage.row_encodings.rounding import to_bfloat16

# Few enough for the processor's first cache, next to what is written; the mean is 0, the standard
# deviation 0.99992, the kurtosis 2.995.
LEVELS = 2**13
# Values that a word of random bits gives: each takes 16 of them, of which the lower 13 count.
PER_WORD = 4
_KEPT_BITS = (LEVELS - 1) * 0x0001000100010001
# Quantiles are whole multiples of this, which float32 holds exactly: how a machine rounds a
# logarithm makes no difference to them.
_STEP = 2.0**-20


def fill_normal(seed: int, first: int, out: NDArray[Any], dtype: str) -> None:
    """Write values of a sequence of normal values: those of splitmix64, 16 bits for each.

    A value is one of 8,192 quantiles of the normal distribution, rounded to the dtype.

    Args:
        seed: The sequence, a number of 64 bits.
        first: Place of the first value in it, a multiple of 4.
        out: Takes the values, as bytes.
        dtype: float32, bfloat16, float16 or float64.
    """
    quantiles, word = _quantiles(dtype), np.uint64(first // PER_WORD)
    values = out.view(quantiles.dtype)
    whole = len(values) // PER_WORD * PER_WORD
    _filler()(np.uint64(seed), word, quantiles, values[:whole])
    if whole < len(values):
        last = np.empty(PER_WORD, values.dtype)
        _filler()(np.uint64(seed), word + np.uint64(whole // PER_WORD), quantiles, last)
        values[whole:] = last[: len(values) - whole]


@cache
def _filler() -> Callable[[np.uint64, np.uint64, NDArray[Any], NDArray[Any]], None]:
    @compiled(nogil=True)
    def fill(seed: np.uint64, word: np.uint64, quantiles: NDArray[Any], out: NDArray[Any]) -> None:
        for index in range(out.size // PER_WORD):
            state = seed + (word + np.uint64(index + 1)) * np.uint64(0x9E3779B97F4A7C15)
            bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            bits = (bits ^ (bits >> np.uint64(31))) & np.uint64(_KEPT_BITS)
            for part in range(PER_WORD):  # a fixed count, which the compiler unrolls
                level = (bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)
                out[PER_WORD * index + part] = quantiles[level]

    filler: Callable[[np.uint64, np.uint64, NDArray[Any], NDArray[Any]], None] = fill
    return filler


@cache
def _quantiles(dtype: str) -> NDArray[Any]:
    """The quantiles as the dtype has them; halves as their bits, which numba has no type for."""
    inverse: Callable[[float], float] = NormalDist().inv_cdf
    upper = [inverse(0.5 + (index + 0.5) / LEVELS) for index in range(LEVELS // 2)]
    half = np.rint(np.array(upper) / _STEP) * _STEP
    exact = np.concatenate([-half[::-1], half])
    if dtype == "bfloat16":
        return to_bfloat16(exact.astype(np.float32))
    values = exact.astype(dtype)
    return values.view(np.uint16) if dtype == "float16" else values

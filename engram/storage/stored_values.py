"""Values of stored bytes as float64, in which every stored dtype is exact."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from engram.storage.dtypes import DTYPES

_E8M0_BIAS, _NAN_BYTE = 127, 255


def decode(raw: NDArray[np.uint8], tag: str) -> NDArray[np.float64]:
    """Decode stored values.

    Args:
        raw: Their bytes.
        tag: Their dtype as safetensors names it: F64, F32, F16, BF16, F8_E4M3, F8_E8M0, or one of
            whole numbers.
    """
    if tag.startswith("F8"):
        return _bytes_as_floats(tag)[raw]
    if tag == "BF16":
        raw, tag = (raw.view("<u2").astype("<u4") << 16).view(np.uint8), "F32"
    with np.errstate(invalid="ignore"):  # not a number in any of its spellings
        return raw.view(str(DTYPES[tag].numpy)).astype(np.float64)


@cache
def _bytes_as_floats(tag: str) -> NDArray[np.float64]:
    """The value of every byte: e8m0 is a power of two, e4m3 has no infinity."""
    bits = np.arange(256)
    if tag == "F8_E8M0":
        powers = np.ldexp(1.0, bits - _E8M0_BIAS)
        powers[_NAN_BYTE] = np.nan
        return powers
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    # Exponent 0 is for numbers below 1 x 2^-6.
    values = np.ldexp((exponent > 0) + mantissa / 8, np.maximum(exponent, 1) - 7)
    values[(bits & 127) == 127] = np.nan
    signed: NDArray[np.float64] = np.where(bits >> 7, -values, values)
    return signed

"""Encodings of ggml, as GGUF files hold them, decoded as ggml does on a CPU.

Layouts of blocks are those of ggml's structs. Products are exact in float32: an f16 has 11
significant bits, and it, the scale of a part of the block and a code have at most 23 together. Only
the subtraction of a minimum rounds, so that fused multiplication and subtraction, which some builds
of ggml use, gives the same bits.

Shapes: B blocks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.storage.row_encodings.row_encoding import RowEncoding, part
from engram.storage.stored_values import decode

# Values of a small block, and of a block that is divided into blocks with scales of their own.
_SMALL, _LARGE = 32, 256
# Twice the values of E2M1, as whole numbers: ggml's zero has no sign.
_MXFP4_VALUES = np.array(
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32
)
_IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
_HALF_E8M0_BIAS = 128

Blocks = NDArray[np.void]
Values = NDArray[np.float32]


def _floats(field: NDArray[Any]) -> Values:
    return field.astype(np.float32)


def _column(field: NDArray[Any]) -> Values:
    """Numbers of blocks ``[B]`` as a column ``[B, 1]``."""
    return _floats(field)[:, np.newaxis]


def _planes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Unpack codes of 1, 2 or 4 bits ``[..., bytes]``.

    Returns:
        The lowest bits of all bytes, then the next ones of all, ... ``[..., 8 / bits, bytes]``.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, np.newaxis]
    planes: NDArray[np.uint8] = (packed[..., np.newaxis, :] >> shifts) & np.uint8(2**bits - 1)
    return planes


def _q8_0(blocks: Blocks) -> Values:
    return _floats(blocks["codes"]) * _column(blocks["d"])


def _q4_0(blocks: Blocks) -> Values:
    codes = _planes(blocks["codes"], 4).reshape(-1, _SMALL).view(np.int8)
    return _column(blocks["d"]) * _floats(codes - np.int8(8))


def _q5_0(blocks: Blocks) -> Values:
    low = _planes(blocks["low"], 4).reshape(-1, _SMALL)
    high = np.unpackbits(blocks["high"], axis=-1, bitorder="little")
    codes = (low | high << 4).view(np.int8)
    return _column(blocks["d"]) * _floats(codes - np.int8(16))


def _iq4_nl(blocks: Blocks) -> Values:
    return _column(blocks["d"]) * _IQ4_NL_VALUES[_planes(blocks["codes"], 4).reshape(-1, _SMALL)]


def _mxfp4(blocks: Blocks) -> Values:
    # Half of 2^(e - 127), for doubled values. To ggml, 255 is a number too.
    exponents = blocks["e"].astype(np.int32) - _HALF_E8M0_BIAS
    halves = np.ldexp(np.float32(1), exponents)[:, np.newaxis]
    return halves * _MXFP4_VALUES[_planes(blocks["codes"], 4).reshape(-1, _SMALL)]


def _scales_and_minima(blocks: Blocks) -> tuple[Values, Values]:
    """Unpack 8 scales and 8 minima of 6 bits each, and multiply them with their blocks' own.

    Of three groups of four bytes, the first two hold scales and minima 0 to 3 in their lower six
    bits, and the upper two bits of 4 to 7 above; the third holds the lower four bits of 4 to 7.

    Returns:
        Scales and minima ``[B, 8, 1]``.
    """
    groups = blocks["scales"].reshape(-1, 3, 4)
    first, last = groups[:, :2] & 63, _planes(groups[:, 2], 4) | groups[:, :2] >> 6 << 4
    six_bits = _floats(np.concatenate([first, last], axis=-1))  # [B, 2, 8]
    scales = _column(blocks["d"]) * six_bits[:, 0]
    minima = _column(blocks["dmin"]) * six_bits[:, 1]
    return scales[..., np.newaxis], minima[..., np.newaxis]


def _q4_k(blocks: Blocks) -> Values:
    scales, minima = _scales_and_minima(blocks)
    codes = _planes(blocks["codes"].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return scales * _floats(codes) - minima


def _q5_k(blocks: Blocks) -> Values:
    scales, minima = _scales_and_minima(blocks)
    low = _planes(blocks["low"].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    codes = low | _planes(blocks["high"], 1) << 4
    return scales * _floats(codes) - minima


def _q6_k(blocks: Blocks) -> Values:
    low = _planes(blocks["low"].reshape(-1, 2, 64), 4).reshape(-1, 16, 16)
    high = _planes(blocks["high"].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    codes = (low | high << 4).view(np.int8) - np.int8(32)
    scales = _column(blocks["d"]) * _floats(blocks["scales"])
    return scales[..., np.newaxis] * _floats(codes)


def _q3_k(blocks: Blocks) -> Values:
    packed = blocks["scales"]
    low_scales = _planes(packed[:, :8], 4).reshape(-1, 16)
    high_scales = _planes(packed[:, 8:], 2).reshape(-1, 16)
    six_bits = (low_scales | high_scales << 4).view(np.int8) - np.int8(32)
    scales = _column(blocks["d"]) * _floats(six_bits)
    low = _planes(blocks["low"].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    high = _planes(blocks["high"], 1).reshape(-1, 16, 16)
    codes = (low | high << 2).view(np.int8) - np.int8(4)
    return scales[..., np.newaxis] * _floats(codes)


def _q2_k(blocks: Blocks) -> Values:
    four_bits = _floats(_planes(blocks["scales"], 4))  # [B, 2, 16]: scales, minima
    scales = _column(blocks["d"]) * four_bits[:, 0]
    minima = _column(blocks["dmin"]) * four_bits[:, 1]
    codes = _planes(blocks["codes"].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    return scales[..., np.newaxis] * _floats(codes) - minima[..., np.newaxis]


def _f32(blocks: Blocks) -> Values:
    return _floats(decode(blocks["value"], "F32"))


def _f16(blocks: Blocks) -> Values:
    return _floats(decode(blocks["value"], "F16"))


def _bf16(blocks: Blocks) -> Values:
    return _floats(decode(blocks["value"], "BF16"))


_D, _DMIN = ("d", "<f2"), ("dmin", "<f2")
GGML_ENCODINGS = (
    RowEncoding("F32", 1, (part(("value", "u1", 4)),), _f32),
    RowEncoding("F16", 1, (part(("value", "u1", 2)),), _f16),
    RowEncoding("BF16", 1, (part(("value", "u1", 2)),), _bf16),
    RowEncoding("Q8_0", _SMALL, (part(_D, ("codes", "i1", 32)),), _q8_0),
    RowEncoding("Q5_0", _SMALL, (part(_D, ("high", "u1", 4), ("low", "u1", 16)),), _q5_0),
    RowEncoding("Q4_0", _SMALL, (part(_D, ("codes", "u1", 16)),), _q4_0),
    RowEncoding("IQ4_NL", _SMALL, (part(_D, ("codes", "u1", 16)),), _iq4_nl),
    RowEncoding("MXFP4", _SMALL, (part(("e", "u1"), ("codes", "u1", 16)),), _mxfp4),
    RowEncoding(
        "Q6_K",
        _LARGE,
        (part(("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D),),
        _q6_k,
    ),
    RowEncoding(
        "Q5_K",
        _LARGE,
        (part(_D, _DMIN, ("scales", "u1", 12), ("high", "u1", 32), ("low", "u1", 128)),),
        _q5_k,
    ),
    RowEncoding(
        "Q4_K", _LARGE, (part(_D, _DMIN, ("scales", "u1", 12), ("codes", "u1", 128)),), _q4_k
    ),
    RowEncoding(
        "Q3_K",
        _LARGE,
        (part(("high", "u1", 32), ("low", "u1", 64), ("scales", "u1", 12), _D),),
        _q3_k,
    ),
    RowEncoding(
        "Q2_K", _LARGE, (part(("scales", "u1", 16), ("codes", "u1", 64), _D, _DMIN),), _q2_k
    ),
)

"""Affine quantisation of MLX: packed codes, scales and biases in three tensors.

Value = code * scale + bias, of a group of columns. Codes follow each other in a row without gaps,
from the lowest bit of its first byte (of its first uint32: they are little-endian); codes of 3, 5
and 6 bits thus lie across bytes. Groups end at whole uint32 words for every number of bits.

Products and sums are float32 here. MLX computes in the dtype of the scales: `mlx.core.dequantize`
of float16 or bfloat16 rounds both to it.

Source: `affine_dequantize` in mlx/ops.cpp and mlx/backend/metal/kernels/quantized.h.
Shapes: B groups.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from engram.storage.dtypes import DTYPES, dtype_name
from engram.storage.row_encodings.mlx_kinds import MLX_SCALES, mlx_name
from engram.storage.row_encodings.row_encoding import RowEncoding, part
from engram.storage.stored_values import decode


def mlx_affine(bits: int, group_size: int, dtype: str) -> RowEncoding:
    """Return the encoding of a table that MLX quantised.

    Its parts are packed codes (the bytes of the uint32 tensor), scales and biases.

    Args:
        bits: Bits of a code.
        group_size: Columns that share a scale and a bias.
        dtype: dtype of scales and biases: float32, float16 or bfloat16.

    Raises:
        InputError: The dtype is not one of tables.
        LayoutError: MLX has no such quantisation.
    """
    name = mlx_name(bits, group_size, dtype)
    tag = MLX_SCALES[dtype_name(dtype)]
    scale = part(("value", "u1", DTYPES[tag].bits // 8))
    return RowEncoding(
        name,
        group_size,
        (part(("codes", "u1", group_size * bits // 8)), scale, scale),
        partial(_dequantise, bits=bits, tag=tag),
    )


def _dequantise(
    packed: NDArray[np.void],
    scales: NDArray[np.void],
    biases: NDArray[np.void],
    *,
    bits: int,
    tag: str,
) -> NDArray[np.float32]:
    # Eight codes lie in as many bytes as one has bits: in the lower bytes of a uint64.
    octets = packed["codes"].reshape(len(packed), packed["codes"].shape[1] // bits, bits)
    words = np.zeros((*octets.shape[:2], 8), dtype=np.uint8)
    words[..., :bits] = octets
    shifts = bits * np.arange(8, dtype=np.uint64)
    codes = words.view("<u8") >> shifts & np.uint64(2**bits - 1)  # [B, group size / 8, 8]
    factors = decode(scales["value"], tag).astype(np.float32)[..., np.newaxis]
    terms = decode(biases["value"], tag).astype(np.float32)[..., np.newaxis]
    return codes.astype(np.float32) * factors + terms

"""Quantised formats of stored rows: fp8 (e4m3 with e8m0 scales) and int8, to and from floats.

Shapes: R rows, width columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engram.errors import LayoutError, MismatchError
from engram.nn.compat import records_a_graph
from engram.storage.dtypes import FP8_SCALE_BLOCK
from engram.storage.row_encodings.rounding_kernels import LEAST_VALUES, fp8_rows, int8_rows
from engram.storage.row_encodings.widening_kernels import fp8_values

# Largest e4m3 value, 1.75 * 2^8, and the floor of a block's largest value (DeepSeek-V4.1's tables).
_FP8_MANTISSA, _FP8_EXPONENT = 0.875, 9
_FP8_FLOOR = 1e-4
_E8M0_BIAS = 127
_INT8_MAX = 127


def quantise_fp8_blocks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to e4m3 with one power-of-two scale per 32 x 32 block (V4.1's projection).

    See `quantise_fp8` for the scale of a block.

    Args:
        values: Finite floats ``[R, width]``, whole blocks.

    Returns:
        Codes as e4m3 ``[R, width]`` and scales as e8m0 ``[R / 32, width / 32]``.
    """
    rows, width = values.shape
    high, wide, size = rows // FP8_SCALE_BLOCK, width // FP8_SCALE_BLOCK, FP8_SCALE_BLOCK
    blocks = values.reshape(high, size, wide, size).transpose(1, 2).reshape(high * wide, -1)
    codes, scales = quantise_fp8(blocks, size * size)
    codes = codes.view(high, wide, size, size).transpose(1, 2).reshape(rows, width)
    return codes, scales.view(high, wide)


def quantise_fp8(values: Tensor, block: int = FP8_SCALE_BLOCK) -> tuple[Tensor, Tensor]:
    """Round rows to e4m3 with one power-of-two scale per 32 columns (DeepSeek-V4.1's tables).

    The scale is the smallest power of two that scales the block's largest value (at least 1e-4) to
    448 or below. The error of a value x in a block with the largest value a is at most
    max(|x| / 16, max(a, 1e-4) / 229,376): four significant bits, and below 2^-6 of a scale (which
    is less than a / 224) steps of 2^-9 of it.

    Args:
        values: Finite floats ``[R, width]``; those beyond float32 are rounded to it first.
        block: Columns that share a scale.

    Returns:
        Codes as e4m3 ``[R, width]`` and scales as e8m0 ``[R, ceil(width / block)]``.
    """
    rows, width = values.shape
    if (wide := _compilable(values)) is not None and (made := fp8_rows(wide, block)) is not None:
        codes, scales = (torch.from_numpy(part) for part in made)
        return codes.view(torch.float8_e4m3fn), scales.view(torch.float8_e8m0fnu)
    blocks = -(-width // block)
    padded = F.pad(values.float(), (0, blocks * block - width)).view(rows, blocks, block)
    largest = padded.abs().amax(dim=-1, keepdim=True).clamp_min(_FP8_FLOOR)
    # frexp splits exactly, while logarithms would round.
    mantissa, exponent = torch.frexp(largest)
    exponent = exponent - _FP8_EXPONENT + (mantissa > _FP8_MANTISSA).int()
    codes = torch.ldexp(padded, -exponent).to(torch.float8_e4m3fn).view(rows, -1)[:, :width]
    scales = (exponent + _E8M0_BIAS).to(torch.uint8).view(torch.float8_e8m0fnu)
    return codes.contiguous(), scales.view(rows, blocks)


def quantise_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to int8: 127 steps of the row's own scale on either side of zero.

    The error of a value in a row with the largest value a is at most a / 254, plus rounding to
    float32.

    Args:
        values: Finite floats ``[R, width]``; those beyond float32 are rounded to it first.

    Returns:
        Codes as int8 ``[R, width]`` and scales as float32 ``[R, 1]``.
    """
    if (wide := _compilable(values)) is not None and (made := int8_rows(wide)) is not None:
        codes, scales = (torch.from_numpy(part) for part in made)
        return codes, scales
    values = values.float()
    scales = values.abs().amax(dim=1, keepdim=True) / _INT8_MAX
    # A row of zeros, or of values too small for float32, has scale 0.
    steps = (values / scales).nan_to_num(0.0).round_().clamp_(-_INT8_MAX, _INT8_MAX)
    return steps.to(torch.int8), scales


def _compilable(values: Tensor) -> NDArray[np.float32] | None:
    """Return values in numpy, where compiled code is worth it and no graph is recorded."""
    if not _is_compilable(values) or (torch.is_grad_enabled() and values.requires_grad):
        return None
    wide: NDArray[np.float32] = values.detach().float().numpy()
    return wide


def _is_compilable(values: Tensor) -> bool:
    is_plain = values.device.type == "cpu" and type(values) is Tensor
    return is_plain and values.numel() >= LEAST_VALUES and not records_a_graph()


def dequantise_int8(
    codes: Tensor, scales: Tensor, *, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Multiply int8 rows by their scales, in float32, and round once.

    Args:
        codes: Values as int8 ``[R, width]``.
        scales: float32 ``[R, 1]``.
        dtype: dtype of the result.

    Returns:
        Values ``[R, width]``.
    """
    return (codes.float() * scales).to(dtype)


def dequantise_fp8(
    codes: Tensor,
    scales: Tensor,
    *,
    rows_per_scale: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Multiply fp8 values by the scale of their block of 32 columns (DeepSeek-V4.1's tables).

    The product is computed in float32 and rounded once; in bfloat16 it is exact, since a value has
    four significant bits and a scale is a power of two.

    Args:
        codes: Values as e4m3 ``[R, width]``.
        scales: One e8m0 per block ``[ceil(R / rows_per_scale), ceil(width / 32)]``; uint8 is taken
            as its bits: byte b means 2^(b - 127), 255 means NaN.
        rows_per_scale: Rows of a block: 1 in tables, 32 in the fused projection.
        dtype: dtype of the result.

    Returns:
        Values ``[R, width]``.

    Raises:
        MismatchError: The scales have another shape.
    """
    rows, width = codes.shape
    expected = (-(-rows // rows_per_scale), -(-width // FP8_SCALE_BLOCK))
    if scales.shape != expected:
        raise MismatchError(
            f"The scales of values {[rows, width]} must be {list(expected)}, one per "
            f"{rows_per_scale} x {FP8_SCALE_BLOCK} block, got {list(scales.shape)}.",
            "Take values and scales from the same checkpoint.",
            scales=list(scales.shape),
            expected=list(expected),
        )
    if scales.dtype == torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    if _is_compilable(codes):
        of_codes, of_scales = (it.contiguous().view(torch.uint8).numpy() for it in (codes, scales))
        wide = fp8_values(of_codes, of_scales, rows_per_scale, FP8_SCALE_BLOCK)
        return torch.from_numpy(wide).to(dtype)
    factors = scales.float().repeat_interleave(rows_per_scale, dim=0)[:rows]
    factors = factors.repeat_interleave(FP8_SCALE_BLOCK, dim=1)[:, :width]
    return codes.float().mul_(factors).to(dtype)


@dataclass(frozen=True)
class Format:
    """A format that stores rows in eight bits per value.

    Attributes:
        codes: dtype of the values as stored.
        scales: dtype of their scales.
        quantise: Turns floats into codes and scales.
        dequantise: Turns codes and scales into floats; takes the `dtype` of the result.
    """

    codes: torch.dtype
    scales: torch.dtype
    quantise: Callable[[Tensor], tuple[Tensor, Tensor]]
    dequantise: Callable[..., Tensor]


FORMATS = {
    "fp8": Format(
        torch.float8_e4m3fn,
        torch.float8_e8m0fnu,
        quantise_fp8,
        dequantise_fp8,
    ),
    "int8": Format(torch.int8, torch.float32, quantise_int8, dequantise_int8),
}


def find_format(table_dtype: str) -> Format:
    """Return a format by its name.

    Raises:
        LayoutError: It is unknown.
    """
    if table_dtype not in FORMATS:
        raise LayoutError(
            f"table_dtype must be one of {', '.join(FORMATS)}, got {table_dtype!r}.",
            "Use another class for tables that are not quantised.",
            table_dtype=table_dtype,
        )
    return FORMATS[table_dtype]

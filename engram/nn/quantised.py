"""Turns stored low-precision values into floats: fp8 (e4m3) with power-of-two scales (e8m0)."""

from __future__ import annotations

import torch
from torch import Tensor

from engram.errors import MismatchError
from engram.units import FP8_SCALE_BLOCK


def dequantise_fp8(
    codes: Tensor,
    scales: Tensor,
    *,
    rows_per_scale: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Multiply fp8 values by the scale of their block of 32 columns (DeepSeek-V4.1's tables).

    The product is made in float32 and rounded once; in bfloat16 it is exact, since a value has
    four significant bits and a scale is a power of two.

    Args:
        codes: Values as e4m3 ``[R, width]``.
        scales: One e8m0 per block ``[ceil(R / rows_per_scale), ceil(width / 32)]``; uint8 is read
            as its bits: byte b means 2^(b - 127), 255 NaN.
        rows_per_scale: Rows of a block: 1 in tables, 32 in the fused projection.
        dtype: Of the result.

    Returns:
        Values ``[R, width]``.

    Raises:
        MismatchError: The scales are those of another shape.
    """
    rows, width = codes.shape
    expected = (-(-rows // rows_per_scale), -(-width // FP8_SCALE_BLOCK))
    if scales.shape != expected:
        raise MismatchError(
            f"The scales are {list(scales.shape)}; values of {[rows, width]} need "
            f"{list(expected)}: one per {rows_per_scale} x {FP8_SCALE_BLOCK} block.",
            "Take values and scales from the same checkpoint.",
            scales=list(scales.shape),
            expected=list(expected),
        )
    if scales.dtype == torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    factors = scales.float().repeat_interleave(rows_per_scale, dim=0)[:rows]
    factors = factors.repeat_interleave(FP8_SCALE_BLOCK, dim=1)[:, :width]
    return codes.float().mul_(factors).to(dtype)

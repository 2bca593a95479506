"""Compiled widening of fp8 rows agrees with torch to the bit, for all codes and all scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engram.nn.quantised import dequantise_fp8
from engram.storage.row_encodings.rounding_kernels import LEAST_VALUES
from engram.storage.row_encodings.widening_kernels import fp8_values

BLOCK = 32
ALL_BYTES = np.arange(256, dtype=np.uint8)


def of_torch(codes, scales, rows_per_scale):
    """Values by torch's own conversions."""
    factors = torch.from_numpy(scales).view(torch.float8_e8m0fnu).float()
    factors = factors.repeat_interleave(rows_per_scale, 0).repeat_interleave(BLOCK, 1)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float()
    return values * factors[: codes.shape[0], : codes.shape[1]]


def same(found, expected):
    is_nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), is_nan)
    assert np.array_equal(found.view(np.int32)[~is_nan], expected.view(np.int32)[~is_nan])


def test_every_code_under_every_scale():
    codes = np.tile(ALL_BYTES, (256, 1))
    scales = np.repeat(ALL_BYTES, 256 // BLOCK).reshape(256, -1)
    same(fp8_values(codes, scales, 1, BLOCK), of_torch(codes, scales, 1).numpy())


@pytest.mark.parametrize(
    ("rows", "rows_per_scale", "width"), [(70, 32, 96), (33, 1, 40), (5, 1, 1)]
)
def test_blocks_of_rows_and_rows_that_end_within_a_block(rows, rows_per_scale, width):
    rng = np.random.default_rng(width)
    codes = rng.integers(0, 256, (rows, width), dtype=np.uint8)
    shape = (-(-rows // rows_per_scale), -(-width // BLOCK))
    scales = rng.integers(100, 140, shape, dtype=np.uint8)
    found = fp8_values(codes, scales, rows_per_scale, BLOCK)
    same(found, of_torch(codes, scales, rows_per_scale).numpy())


def test_large_tensors_take_it():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (LEAST_VALUES // 64, 64), dtype=np.uint8)
    scales = rng.integers(100, 140, (len(codes), 2), dtype=np.uint8)
    both = torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales)
    expected = of_torch(codes, scales, 1)
    same(dequantise_fp8(*both, dtype=torch.float32).numpy(), expected.numpy())
    halves = dequantise_fp8(*both)
    assert halves.dtype == torch.bfloat16
    assert torch.equal(halves.nan_to_num(), expected.bfloat16().nan_to_num())
    # Rows of a wider matrix, which lie apart.
    apart = torch.from_numpy(np.repeat(codes, 2, axis=1)).view(torch.float8_e4m3fn)[:, :64]
    same(
        dequantise_fp8(apart, both[1], dtype=torch.float32).numpy(),
        of_torch(np.repeat(codes, 2, axis=1)[:, :64], scales, 1).numpy(),
    )

"""Random orthogonal matrices that have the same bytes on every machine.

A decomposition (QR) would round as the processor's library does. Here are only single operations of
IEEE arithmetic, each in a fixed order: a randomised Hadamard transform.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# After three rounds the values look normal.
_ROUNDS = 3

Matrix = NDArray[np.float64]


def orthogonal(rows: int, columns: int) -> Tensor:
    """Draw a matrix whose shorter side is orthonormal, from torch's global generator.

    Args:
        rows: Rows R.
        columns: Columns C.

    Returns:
        Float64 ``[R, C]`` on the CPU.
    """
    long, short = max(rows, columns), min(rows, columns)
    size = 1 << (long.bit_length() - 1)  # the largest power of two that fits
    matrix = np.eye(long, short)
    for _ in range(_ROUNDS):
        signs = torch.randint(2, (long, 1), device="cpu").numpy() * 2.0 - 1.0
        order = torch.randperm(long, device="cpu").numpy()
        matrix = (matrix * signs)[order]
        # The two overlap, so that every line is mixed with others.
        _transform(matrix[:size])
        if size < long:
            _transform(matrix[-size:])
    return torch.from_numpy(matrix if rows == long else np.ascontiguousarray(matrix.T))


def _transform(lines: Matrix) -> None:
    """Apply the orthonormal Hadamard transform to the first dimension ``[2^a, any]``, in place."""
    size, half = len(lines), 1
    while half < size:
        pairs = lines.reshape(size // (2 * half), 2, half, -1)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
    lines *= 1 / math.sqrt(size)

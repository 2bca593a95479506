"""Comparison of results that were computed in another order, on any processor."""

from __future__ import annotations

import torch


def assert_near(got: torch.Tensor, expected: torch.Tensor, roundings: int = 16) -> None:
    """Compare tensors up to some roundings of the largest value.

    Sums in another order differ by roundings of what was summed, not of the result: a bound in
    absolute terms, or in terms of each small value, holds on one processor and not on the next.

    Args:
        got: Any shape and float dtype.
        expected: The same shape and dtype.
        roundings: Roundings (machine epsilons, at most float32's) that may add up.
    """
    size = expected.detach().abs().max().item() if expected.numel() else 0.0
    bound = roundings * min(torch.finfo(it).eps for it in (expected.dtype, torch.float32)) * size
    torch.testing.assert_close(got, expected, rtol=0, atol=bound)

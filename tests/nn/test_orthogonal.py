"""`orthogonal`: orthonormal, spread out, and the same bytes on every machine."""

from __future__ import annotations

import hashlib

import pytest
import torch

from engram.nn.orthogonal import orthogonal


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (8, 8), (24, 32), (32, 24), (49, 30), (31, 31), (576, 1024)]
)
def test_the_shorter_side_is_orthonormal(shape):
    torch.manual_seed(1)
    matrix = orthogonal(*shape)
    assert matrix.shape == shape
    assert matrix.dtype == torch.float64
    inner = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
    torch.testing.assert_close(inner, torch.eye(min(shape), dtype=torch.float64))


def test_values_are_those_of_a_random_direction():
    torch.manual_seed(2)
    values = orthogonal(576, 1024).flatten() * 1024**0.5
    assert abs(float(values.mean())) < 0.01
    assert float(values.square().mean()) == pytest.approx(1)
    assert float(values.pow(4).mean()) == pytest.approx(3, abs=0.1)  # as of a normal distribution
    assert float(values.abs().max()) < 7


def test_another_seed_gives_another_matrix():
    torch.manual_seed(3)
    first, second = orthogonal(16, 24), orthogonal(16, 24)
    torch.manual_seed(3)
    assert torch.equal(first, orthogonal(16, 24))
    assert float((first * second).sum(dim=1).abs().max()) < 0.9


def test_bytes_do_not_depend_on_the_machine():
    torch.manual_seed(4)
    digest = hashlib.sha256(orthogonal(24, 40).numpy().tobytes()).hexdigest()
    assert digest[:16] == "330a547e77e2c6fe"

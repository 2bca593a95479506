"""CKA: against Gram matrices written out, its laws, and the index that is made of it."""

from __future__ import annotations

import pytest
import torch

from engram.evaluation.alignment import (
    MINIBATCH,
    Alignment,
    centred_grams,
    effective_depths,
    minibatches,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unbiased_hsic(x, y):
    """The estimator as Song et al. (2012) write it, equation 5."""
    count = len(x)
    k, m = ((it @ it.T).fill_diagonal_(0) for it in (x, y))
    ones = torch.ones(count, dtype=x.dtype)
    terms = (k @ m).trace() + ones @ k @ ones * (ones @ m @ ones) / ((count - 1) * (count - 2))
    return (terms - 2 / (count - 2) * (ones @ k @ m @ ones)) / (count * (count - 3))


def cka_of(a, b, pieces=1):
    """The matrix of two lists of layers, in minibatches."""
    alignment = Alignment()
    for one, other in zip(
        zip(*(it.chunk(pieces) for it in a), strict=True),
        zip(*(it.chunk(pieces) for it in b), strict=True),
        strict=True,
    ):
        alignment.add(centred_grams(one), centred_grams(other))
    return torch.tensor(alignment.matrix(), dtype=torch.float64)


def related(count=90):
    """Two models of two and three layers, whose states have something in common."""
    common = random(count, 4)
    a = [common @ random(4, 12, seed=1), common + random(count, 4, seed=2)]
    b = [random(count, 7, seed=3), common @ random(4, 6, seed=4) + 3, common.tanh()]
    return a, b


@pytest.mark.parametrize("pieces", [1, 3])
def test_it_equals_the_estimator_written_out(pieces):
    a, b = related()

    def mean(x, y):
        parts = zip(x.chunk(pieces), y.chunk(pieces), strict=True)
        return sum(unbiased_hsic(*part) for part in parts) / pieces

    expected = torch.tensor(
        [[mean(x, y) / (mean(x, x) * mean(y, y)).sqrt() for x in a] for y in b],
        dtype=torch.float64,
    )
    torch.testing.assert_close(cka_of(a, b, pieces), expected, rtol=1e-5, atol=1e-6)


def test_it_is_one_with_itself_and_symmetric():
    a, b = related()
    torch.testing.assert_close(cka_of(a, a, 3).diagonal(), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(cka_of(a, b), cka_of(b, a).T)


def test_rotations_scales_and_shifts_do_not_change_it():
    a, b = related()
    rotation = torch.linalg.qr(random(12, 12, seed=9))[0]
    turned = [5 * a[0] @ rotation + 1000, a[1] / 100]
    torch.testing.assert_close(cka_of(turned, b), cka_of(a, b), rtol=1e-4, atol=1e-5)
    stretched = [a[0] * torch.linspace(0.01, 3, 12), a[1]]
    assert not torch.allclose(cka_of(stretched, b), cka_of(a, b), rtol=1e-2)


def test_independent_states_are_not_alike_however_few_the_tokens():
    a, b = [random(64, 500, seed=1)], [random(64, 500, seed=2)]
    assert abs(cka_of(a, b).item()) < 0.05
    x, y = (it[0] - it[0].mean(0) for it in (a, b))
    plain = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert plain > 0.8  # which the plain estimator does not see
    many = cka_of([random(6400, 500, seed=1)], [random(6400, 500, seed=2)], 50).item()
    assert abs(many) < 0.005


def test_streams_are_one_state():
    streams = random(60, 3, 5)
    torch.testing.assert_close(
        centred_grams([streams]).pairs, centred_grams([streams.flatten(1)]).pairs
    )


def test_states_without_change_resemble_nothing():
    assert cka_of([torch.ones(20, 3)], [random(20, 3)]).tolist() == [[0.0]]


def test_minibatches_hold_every_token_once():
    for tokens in (4, MINIBATCH, MINIBATCH + 1, 1000):
        found = list(minibatches(tokens, torch.Generator().manual_seed(1)))
        assert torch.cat(found).sort().values.tolist() == list(range(tokens))
        sizes = [len(it) for it in found]
        assert min(sizes) >= 4
        assert max(sizes) <= MINIBATCH
        assert max(sizes) - min(sizes) <= 1
    assert torch.cat(found).tolist() != list(range(1000))
    assert list(minibatches(3, torch.Generator())) == []


def test_an_effective_depth_is_the_mean_of_the_nearest_layers():
    matrix = [[0.9, 0.1, -0.5], [0.3, 0.8, -0.1], [0.0, 0.4, 0.0], [-1.0, 0.2, 0.0]]
    first, second, third = effective_depths(matrix, 2)
    assert first == pytest.approx((0.9 * 0 + 0.3 * 1) / 1.2)
    assert second == pytest.approx((0.8 * 1 + 0.4 * 2) / 1.2)
    assert third is None
    assert effective_depths(matrix, 1)[:2] == [0.0, 1.0]
    assert effective_depths(matrix, 9)[1] == pytest.approx((0.8 + 0.8 + 0.6) / 1.5)

"""Stochastic rounding: to a neighbour, right on average, and a function of the place alone."""

import torch

from engram.training.rounding import round_to_bfloat16


def test_every_value_goes_to_one_of_its_neighbours_and_their_mean_is_the_value():
    exact = torch.linspace(-3, 3, 64 * 5).reshape(5, 64)[[4, 2, 0, 1, 3]]
    ids = torch.tensor([10**9, 7, 3, 1, 0])
    rounded = torch.stack(
        [round_to_bfloat16(exact, ids, seed=1, step=step).float() for step in range(4000)]
    )
    low = (exact.view(torch.int32) & -65536).view(torch.float32)
    gap = (((exact.view(torch.int32) & -65536) + 65536).view(torch.float32) - low).abs()
    assert ((rounded == low) | ((rounded - low).abs() == gap)).all()
    # The mean of 4,000 has a standard error of at most gap / 2 / sqrt(4000).
    assert ((rounded.mean(0) - exact).abs() <= 5 * gap / 2 / 4000**0.5).all()


def test_the_noise_depends_on_seed_step_row_and_column_and_on_nothing_else():
    values = torch.full((6, 10), 1.001953125)
    ids = torch.arange(6)
    one = round_to_bfloat16(values, ids, seed=1, step=1)
    assert torch.equal(one, round_to_bfloat16(values, ids, seed=1, step=1))
    assert torch.equal(one[[4, 1]], round_to_bfloat16(values[:2], ids[[4, 1]], seed=1, step=1))
    for other in ({"seed": 2, "step": 1}, {"seed": 1, "step": 2}):
        assert not torch.equal(one, round_to_bfloat16(values, ids, **other))
    assert len({tuple(row) for row in one.tolist()}) > 1
    assert len({tuple(column) for column in one.T.tolist()}) > 1


def test_values_that_are_bfloat16_stay_and_so_do_those_that_are_not_finite():
    values = torch.tensor([[1.0, -2.5, 0.0, torch.finfo(torch.bfloat16).max]])
    ids = torch.tensor([5])
    assert torch.equal(round_to_bfloat16(values, ids, seed=0, step=3).float(), values)
    odd = torch.tensor([[torch.inf, -torch.inf, torch.nan, 3.4e38]])
    rounded = round_to_bfloat16(odd, ids, seed=0, step=3)
    assert rounded[0, 0] == torch.inf
    assert rounded[0, 1] == -torch.inf
    assert rounded[0, 2].isnan()


def test_small_updates_are_kept_on_average():
    ids, table = torch.arange(200), torch.ones(200, 8, dtype=torch.bfloat16)
    for step in range(100):
        table = round_to_bfloat16(table.float() - 2e-3, ids, seed=0, step=step)
    moved = 1 - table.float().mean()
    assert 0.19 < moved < 0.21

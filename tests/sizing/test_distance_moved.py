"""How far optimisers move rows, against the rules and optimisers themselves."""

from __future__ import annotations

import pytest
import torch

from engram.sizing.distance_moved import distance_moved
from engram.sizing.optimizers import DENSE_VALUES, OPTIMIZERS, ROW_STATES, optimizer_of
from engram.training.row_rules import find_rule
from engram.training.train_options import TABLE_OPTIMIZERS

TOUCHES = (1, 2, 7, 27, 300)
# The most, of the first step of a run; and late, when corrections for its steps have faded.
FIRST_STEPS = (1, 10**6)


def moved_by_rule(name, touches, step):
    """How far a row moves whose gradients are all the same, in steps that follow each other."""
    rule = find_rule(name)
    grads = torch.full((1, 4), 1.0, dtype=torch.float64)
    state = {column: torch.zeros(1, 1, dtype=torch.float64) for column in rule.row_columns}
    state |= {column: torch.zeros_like(grads) for column in rule.value_columns}
    changes = [rule.change(grads, state, 0.5, step + number) for number in range(touches)]
    return float(sum(changes).square().mean().sqrt())


@pytest.mark.parametrize("rule", TABLE_OPTIMIZERS)
@pytest.mark.parametrize("touches", TOUCHES)
def test_rules_of_rows_move_them_at_most_so_far(rule, touches):
    moved = [moved_by_rule(rule, touches, step) for step in FIRST_STEPS]
    stated = {distance_moved(touches, 0.5, name) for name in (rule, optimizer_of(rule))}
    assert len(stated) == 1
    assert max(moved) <= stated.pop() * (1 + 1e-9) < 6 * max(moved)


@pytest.mark.parametrize("gap", [1, 10, 300])
@pytest.mark.parametrize("name", DENSE_VALUES)
def test_dense_optimisers_move_rows_at_most_so_far(name, gap):
    """They go on to move a row in the steps that do not touch it."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = {
        "adam": lambda: torch.optim.Adam([weight], lr=0.5),
        "momentum": lambda: torch.optim.SGD([weight], lr=0.5, momentum=0.9),
        "sgd": lambda: torch.optim.SGD([weight], lr=0.5),
    }[name]()
    touches = 8
    for step in range(touches * gap):
        weight.grad = torch.full_like(weight, float(step % gap == 0))
        optimizer.step()
    moved, stated = abs(weight.item()), distance_moved(touches, 0.5, name)
    assert moved <= stated * (1 + 1e-9)
    if gap == 300:  # adam's means have faded most between the touches
        assert stated < 2.5 * moved


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_grows_with_touches_and_learning_rate(name):
    distances = [distance_moved(touches, 0.1, name) for touches in (0, 0.3, 1, 10, 10**3, 10**6)]
    assert distances[0] == 0
    assert sorted(set(distances)) == distances
    assert distance_moved(10, 0.2, name) == pytest.approx(2 * distances[3])
    # Of an average over rows, of which some are touched more often, it is still the most.
    assert (distance_moved(2, 1, name) + distance_moved(0, 1, name)) / 2 <= (
        distance_moved(1, 1, name) * (1 + 1e-9)
    )


def test_every_rule_has_a_name_and_its_state():
    assert {state.rule for state in ROW_STATES.values()} == set(TABLE_OPTIMIZERS)
    for name, state in ROW_STATES.items():
        rule = find_rule(state.rule)
        columns = (state.row_columns, state.value_columns)
        assert columns == (len(rule.row_columns), len(rule.value_columns))
        assert optimizer_of(state.rule) == name
    assert {*DENSE_VALUES, *ROW_STATES} == set(OPTIMIZERS)

"""The picture of a run: what its records say, and nothing that it does not have."""

from __future__ import annotations

import pytest

from engram.pictures import plot_training
from support.drawn import column, lines, texts_outside


def record(step, **more):
    return {
        **{"step": step, "tokens": 64 * step, "loss": 6.0 - step / 10, "grad_norm": 1.0},
        **{"lr": [0.1], "rows_touched": 100 + step, "gate_means": {"1": 0.4, "6": 0.5 + step / 50}},
        **more,
    }


@pytest.fixture
def answer():
    log = [record(step) for step in range(1, 11)]
    log[4] |= {"held_out_nats": 5.75, "row_movement": 0.25}
    return {
        **{"steps": 10, "log": log, "row_movement": 0.5},
        **{"held_out": {"nats_per_token": 5.0}, "held_out_start": {"nats_per_token": 6.5}},
    }


def test_records_are_drawn(answer):
    losses, touched, moved, gates = plot_training(answer).axes
    steps, log = column(answer["log"], "step"), answer["log"]
    assert lines(losses) == {
        "a step": (steps, column(log, "loss")),
        "held out, a part": ([5], [5.75]),
        "held out, all": ([0, 10], [6.5, 5.0]),
    }
    assert [*touched.get_lines()[0].get_ydata()] == column(log, "rows_touched")
    assert [*moved.get_lines()[0].get_xydata().ravel()] == [5, 0.25, 10, 0.5]
    assert lines(gates) == {
        f"layer {layer}": (steps, [it["gate_means"][layer] for it in log]) for layer in ("1", "6")
    }


def test_a_run_without_a_memory_has_losses_alone(answer):
    log = [{**it, "rows_touched": 0, "gate_means": {}} for it in answer["log"]]
    log[4]["row_movement"] = None
    figure = plot_training({**answer, "log": log, "row_movement": None})
    assert len(figure.axes) == 1
    assert texts_outside(figure) == []


def test_one_step_is_drawn(answer):
    log = answer["log"][:1]
    figure = plot_training({**answer, "steps": 1, "log": log, "row_movement": None})
    assert len(figure.axes) == 3
    assert texts_outside(figure) == []

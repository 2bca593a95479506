"""`verdict`: sentences that follow the interval."""

from __future__ import annotations

import pytest

from engram.evaluation.run_change import RunChange
from engram.evaluation.verdict import verdict


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            RunChange(-0.1, -0.15, -0.05),
            "On this text the memory lowers the loss by 0.1000 nats a token (95 % interval 0.0500 "
            "to 0.1500).",
        ),
        (
            RunChange(0.1, 0.05, 0.15),
            "On this text the memory raises the loss by 0.1000 nats a token (95 % interval 0.0500 "
            "to 0.1500).",
        ),
        (
            RunChange(-0.1, -0.3, 0.1),
            "On this text the memory makes no clear difference: -0.1000 nats a token (95 % "
            "interval -0.3000 to +0.1000).",
        ),
        (
            RunChange(-0.1, None, None),
            "On this text the memory changes the loss by -0.1000 nats a token; one document gives "
            "no interval.",
        ),
    ],
)
def test_a_verdict_follows_the_interval(change, said):
    assert verdict("all", {"off": change}) == said


def test_controls_are_told_and_runs_of_the_model_itself_are_not():
    small = RunChange(-0.02, -0.03, -0.01)
    differences = dict.fromkeys(("off", "permuted", "base", "frozen", "dense"), small)
    told = verdict("held_out", differences)
    assert told.startswith("On held-out text the memory lowers")
    assert "permuted" not in told
    assert "Beside base" not in told
    assert told.count("Beside frozen it lowers") == told.count("Beside dense it lowers") == 1

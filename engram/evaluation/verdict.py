"""Says in sentences whether a memory helps."""

from __future__ import annotations

from collections.abc import Mapping

from engram.evaluation.evaluated_text import Split
from engram.evaluation.measured_runs import BASE, OFF, OWN_RUNS
from engram.evaluation.run_change import RunChange


def verdict(split: Split, differences: Mapping[str, RunChange]) -> str:
    """Return the answer of an evaluation: the memory beside none, then beside every control.

    Args:
        split: Whether the documents are those that the training held out, or all.
        differences: Loss with the memory minus that of another run, by the run.
    """
    where = "held-out text" if split == "held_out" else "this text"
    controls = [name for name in differences if name not in (*OWN_RUNS, BASE)]
    return " ".join(
        [
            f"On {where} the memory {_change(differences[OFF])}.",
            *(f"Beside {name} it {_change(differences[name])}." for name in controls),
        ]
    )


def _change(change: RunChange) -> str:
    """Say which way a difference goes, if it has an interval that says so."""
    if change.low is None or change.high is None:
        return (
            f"changes the loss by {change.nats:+.4f} nats a token; one document gives no interval"
        )
    low, high = sorted((abs(change.low), abs(change.high)))
    size = f"by {abs(change.nats):.4f} nats a token (95 % interval {low:.4f} to {high:.4f})"
    if change.high < 0:
        return f"lowers the loss {size}"
    if change.low > 0:
        return f"raises the loss {size}"
    return (
        f"makes no clear difference: {change.nats:+.4f} nats a token (95 % interval "
        f"{change.low:+.4f} to {change.high:+.4f})"
    )

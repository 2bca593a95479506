"""Forecast of a run: how often it touches a row, how far rows will move, and what it will take."""

from dataclasses import dataclass
from typing import Any

from engram.sizing.distance_moved import MOVED


@dataclass(frozen=True)
class Forecast:
    """Expectations of a run before it starts.

    Attributes:
        steps: Steps.
        tokens: Tokens that they read.
        seconds: Time that they take, by a measurement; None before it.
        touches_per_row: Reads of a row of one head, on average over all rows.
        start_rms: Root mean square of the tables' values before; None where no table is trained.
        movement: Distance that a row's values move, at most, over `start_rms`; None where the
            tables start at zero, or none is trained.
        memory_bytes: Bytes of weights, gradients, state and activations; None if unknown.
        held_out_tokens: Tokens that are evaluated before and after.
        evaluation_seconds: Time that one such evaluation takes.
        done_steps: Steps of them that were made before, in a run that goes on.
    """

    steps: int
    tokens: int
    seconds: float | None
    touches_per_row: float
    start_rms: float | None
    movement: float | None
    memory_bytes: int | None
    held_out_tokens: int
    evaluation_seconds: float
    done_steps: int = 0

    @property
    def warning(self) -> str | None:
        """A sentence about tables that will stay nearly random; None if they will not."""
        if self.movement is None or self.movement >= MOVED:
            return None
        return (
            f"rows will move by at most {self.movement:.2g} of their size, less than {MOVED:g}: "
            "the tables will stay nearly as random as they are. Train longer, raise --table-lr, "
            "take fewer rows, or start them at zero (engram attach --init zero-table)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast for JSON."""
        return dict(vars(self))

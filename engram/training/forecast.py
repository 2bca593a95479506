"""Forecast of a run: how often it touches a row, how far rows will move, and what it will take."""

import math
from dataclasses import dataclass
from typing import Any

from engram.training.train_options import TableOptimizer

# Below this share of its start a table stays about as random as it began.
MOVED = 0.5


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
    """

    steps: int
    tokens: int
    seconds: float | None
    touches_per_row: float
    start_rms: float | None
    movement: float | None
    memory_bytes: int | None

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


def distance_moved(touches: float, table_lr: float, rule: TableOptimizer) -> float:
    """Return how far the touches move a row's values, at most: all in one direction.

    Args:
        touches: Touches of the row.
        table_lr: Learning rate, without a schedule.
        rule: Rule of the tables. Row-wise Adagrad moves values by about ``lr / sqrt(n)`` at the
            n-th touch, the others by about ``lr``; momentum by the gradient's own size, which is
            taken for one.
    """
    if rule == "rowwise-adagrad":
        return 2 * table_lr * math.sqrt(touches)
    return table_lr * touches

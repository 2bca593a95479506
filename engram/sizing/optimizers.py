"""Optimisers that training is counted for, and the state that each keeps.

Those of rows are the rules of `engram.training.MemoryOptimizer`, which keeps the state of 16-bit
rows in float32 and no master copy; everything but the tables is then under Adam.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Optimizer = Literal[
    "adam",
    "momentum",
    "sgd",
    "rowwise-adagrad",
    "rowwise-rmsprop",
    "sparse-adam",
    "sparse-momentum",
]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# fp32 values per parameter of a dense optimiser, besides the fp32 master copy of a 16-bit weight.
DENSE_VALUES: Mapping[Optimizer, int] = {"adam": 2, "momentum": 1, "sgd": 0}


@dataclass(frozen=True)
class RowState:
    """State of tables under an optimiser that changes only the rows that a step touches.

    Attributes:
        rule: Its name as `table_optimizer` of `engram.training.MemoryOptimizer`.
        row_columns: Columns of state with one value a row.
        value_columns: Columns of state with one value for each of the row's.
        about: What is to be said of it, for people.
    """

    rule: str
    row_columns: int
    value_columns: int
    about: str

    def column_bytes(self, width: int, item_bytes: int) -> list[int]:
        """Return the bytes of a row of each column.

        Args:
            width: Values of a table's row.
            item_bytes: Bytes of each of them in the table.
        """
        wide = max(4, item_bytes)
        return [wide] * self.row_columns + [wide * width] * self.value_columns


ROW_STATES: Mapping[Optimizer, RowState] = {
    "rowwise-adagrad": RowState("rowwise-adagrad", 1, 0, "one fp32 a row"),
    "rowwise-rmsprop": RowState("rowwise-rmsprop", 1, 0, "one fp32 a row"),
    "sparse-adam": RowState("sparse-adam", 0, 2, "two fp32 a parameter"),
    "sparse-momentum": RowState(
        "momentum",
        0,
        1,
        "one fp32 a parameter, Nesterov's momentum at touched rows (momentum of engram train)",
    ),
}


def optimizer_of(rule: str) -> Optimizer:
    """Return the name here of a rule of `engram.training.MemoryOptimizer`."""
    return next(name for name, state in ROW_STATES.items() if state.rule == rule)

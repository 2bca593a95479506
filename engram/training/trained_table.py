"""`TrainedTable`: one table with its gradients and the columns of its optimiser's state.

Shapes: n distinct rows, W values of a row.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engram.errors import InputError
from engram.nn.rows import RamRows, Rows, rows_of
from engram.nn.sharded import ShardedEmbedding
from engram.training.processes import process_count, sum_over_processes
from engram.training.rounding import round_to_bfloat16
from engram.training.row_gradients import RowGradients
from engram.training.row_rules import RowRule


class TrainedTable:
    """A table that an optimiser of rows trains.

    Args:
        embedding: The table's module, whose gradients become sparse.
        rule: The rule that changes its rows.
        seed: Seed of the rounding of 16-bit rows.

    Attributes:
        weight: The parameter.
        rows: Its rows, wherever they lie.
        total_rows: Number of its rows on all processes.
        columns: State of the rule beside them, by name.
        steps: Steps so far.
        is_shard: Whether other processes hold its other rows.
        rows_touched: Rows that had gradients in the last step, on all processes.
    """

    def __init__(self, embedding: nn.Module, rule: RowRule, seed: int) -> None:
        module: Any = embedding
        if module.weight.dtype == torch.float16:
            raise InputError(
                "A table in float16 cannot be trained: most of its updates would be rounded away.",
                "Store it in bfloat16, which is rounded stochastically, or in float32: engram "
                "attach or engram convert, with --dtype bfloat16.",
            )
        module.sparse = True
        self.weight: nn.Parameter = module.weight
        self.rows, self.total_rows = rows_of(embedding), int(module.num_embeddings)
        self.is_shard = isinstance(embedding, ShardedEmbedding)
        self._group: dist.ProcessGroup | None = getattr(embedding, "group", None)
        self.steps = self.rows_touched = 0
        self._rule, self._seed = rule, seed
        self._gradients = RowGradients(self.weight)
        self._grads: tuple[Tensor, Tensor] | None = None
        # State of 16-bit rows is float32, as their arithmetic is.
        self._wide = torch.promote_types(self.rows.dtype, torch.float32)
        widths = dict.fromkeys(rule.row_columns, 1)
        widths |= dict.fromkeys(rule.value_columns, self.rows.width)
        self.columns: dict[str, Rows] = {
            name: self.rows.column(name, width, self._wide) for name, width in widths.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return what the optimiser's `state` holds of it: the step, and columns in memory."""
        in_memory = {
            name: column.values
            for name, column in self.columns.items()
            if isinstance(column, RamRows)
        }
        # AdamW wants the step of every parameter that has a state, as a tensor.
        return {"step": torch.tensor(float(self.steps)), **in_memory}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state` returned."""
        self.steps = int(state["step"])
        for name, column in self.columns.items():
            if isinstance(column, RamRows):
                column.values.copy_(state[name])

    def clear(self) -> None:
        """Forget the gradients since the last step."""
        self._gradients.clear()

    def sum_gradients(self) -> float:
        """Sum the gradients since the last step by row, for `update`; over all processes.

        Returns:
            The sum of their squares, of all processes where they share the table.
        """
        shared = process_count() > 1
        self._grads = self._gradients.summed(exchange=shared and not self.is_shard)
        ids, grads = self._grads
        square = torch.linalg.vector_norm(grads).double().square()
        found = torch.stack([square, square.new_tensor(len(ids))])
        if shared and self.is_shard:
            found = sum_over_processes(found, self._group)
        self.rows_touched = int(found[1])
        return float(found[0])

    def update(self, scale: float, lr: float) -> None:
        """Change the rows whose gradients `sum_gradients` has summed.

        Args:
            scale: Factor of the gradients, of clipping.
            lr: Learning rate of the tables.
        """
        if self._grads is None:
            return
        (ids, grads), self._grads = self._grads, None
        self.steps += 1
        if self._rule.needs_all_rows:
            dense = grads.new_zeros(self.rows.count, self.rows.width)
            ids, grads = (
                torch.arange(self.rows.count, device=ids.device),
                dense.index_copy_(0, ids, grads),
            )
        if not len(ids):
            return
        state = {name: column.read(ids) for name, column in self.columns.items()}
        change = self._rule.change(grads * scale, state, lr, self.steps)
        if self.rows.dtype == torch.bfloat16:
            changed = self.rows.read(ids).to(self._wide) - change
            numbers = ids + self.rows.first_row
            rounded = round_to_bfloat16(changed, numbers, seed=self._seed, step=self.steps)
            self.rows.write(ids, rounded)
        else:
            self.rows.subtract(ids, change)
        for name, column in self.columns.items():
            column.write(ids, state[name])

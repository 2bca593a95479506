"""`Rows`: rows of a table, or a column of optimiser state beside one, read and written by number.

An optimiser of rows touches few of them; where they lie is not its business.

Shapes: n distinct rows, W values of a row.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from engram.nn.row_passes import change_rows, over_rows, row_passes


class Rows(ABC):
    """Rows that are read and written by number.

    Attributes:
        first_row: Number of the first of them in the whole table; 0 unless ranks share it.
        count: Number of rows here.
        width: Values W of a row.
        dtype: dtype of the values.
        device: Device of ids and values; the CPU unless the rows lie elsewhere.
    """

    first_row: int
    count: int
    width: int
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def read(self, ids: Tensor) -> Tensor:
        """Return rows ``[n, W]``.

        Args:
            ids: Their numbers here, from 0, distinct, int64 ``[n]``.
        """

    @abstractmethod
    def write(self, ids: Tensor, values: Tensor) -> None:
        """Replace rows.

        Args:
            ids: Their numbers here, from 0, distinct, int64 ``[n]``.
            values: The new rows ``[n, W]``, of the same dtype.
        """

    def subtract(self, ids: Tensor, change: Tensor) -> None:
        """Subtract from rows.

        Args:
            ids: Their numbers here, from 0, distinct, int64 ``[n]``.
            change: To be subtracted ``[n, W]``, of the same dtype.
        """
        self.write(ids, self.read(ids) - change)

    @abstractmethod
    def column(self, name: str, width: int, dtype: torch.dtype) -> "Rows":
        """Make a column of zeros with as many rows, in the same home.

        Args:
            name: Name of the column, which is new.
            width: Values a row.
            dtype: dtype of the values.
        """


class RamRows(Rows):
    """Rows of a tensor in memory, on any device.

    Args:
        values: The tensor ``[count, W]``; a parameter is written to without a gradient.
        first_row: See `Rows`.
    """

    def __init__(self, values: Tensor, first_row: int = 0) -> None:
        self.values, self.first_row = values, first_row
        self.count, self.width = values.shape
        self.dtype, self.device = values.dtype, values.device

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Return rows ``[n, W]``."""
        if (passes := row_passes(self.values, ids)) is None:
            return self.values.index_select(0, ids)
        found = self.values.new_empty(len(ids), self.width)
        over_rows(passes.read_rows, self.values, ids, found)
        return found

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor) -> None:
        """Replace rows by others ``[n, W]``."""
        if (passes := row_passes(self.values, ids, values)) is None:
            self.values.index_copy_(0, ids, values)
        else:
            change_rows(passes.write_rows, self.values, ids, values)

    @torch.no_grad()
    def subtract(self, ids: Tensor, change: Tensor) -> None:
        """Subtract changes ``[n, W]`` from rows, which are read and written at once."""
        if (passes := row_passes(self.values, ids, change)) is None:
            super().subtract(ids, change)
        else:
            change_rows(passes.subtract_rows, self.values, ids, change)

    def column(self, name: str, width: int, dtype: torch.dtype) -> "RamRows":
        """Make a column of zeros on the device of the rows."""
        zeros = torch.zeros(self.count, width, dtype=dtype, device=self.values.device)
        return RamRows(zeros, self.first_row)


def gradient_of_look_ups(
    ids: Tensor, grads: Tensor, table: torch.Size, home: torch.device
) -> Tensor:
    """Return a table's sparse gradient, each row as often as it was looked up, as torch's own is.

    Args:
        ids: The rows that were looked up, int of any shape ``[...]``.
        grads: The gradient of each look-up ``[..., W]``.
        table: Shape of the table ``[count, W]``.
        home: Device of the table.
    """
    return torch.sparse_coo_tensor(
        ids.reshape(1, -1).to(home, torch.int64),
        grads.reshape(-1, table[1]).to(home),
        table,
        check_invariants=False,
    )


def rows_of(embedding: nn.Module) -> Rows:
    """Return the rows of a trainable table.

    Args:
        embedding: The table's module: one with `rows` of its own, or a plain embedding in memory.
    """
    rows: Any = getattr(embedding, "rows", None)
    if isinstance(rows, Rows):
        return rows
    weight: Any = embedding.weight
    return RamRows(weight, int(getattr(embedding, "first_row", 0)))

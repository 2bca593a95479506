"""`FrozenTable`: base of tables that cannot be trained, on disk or quantised."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from engram.errors import LayoutError


class FrozenTable(nn.Module):
    """Base class of tables that cannot be trained.

    Training one by mistake is an error: a table that silently stayed unchanged would spoil a run.

    Attributes:
        num_embeddings: Rows of the table.
        embedding_dim: Width of a row.
        dtype: dtype of the rows that a look-up returns.
        way_out: Advice for getting a trainable table.
        frozen: Whether the user has frozen the table, to train the rest around it:
            ``requires_grad_(False)`` sets it, as it would freeze a table in memory.
    """

    num_embeddings: int
    embedding_dim: int
    dtype: torch.dtype
    way_out: ClassVar[str]
    frozen: bool = False

    @abstractmethod
    def describe(self) -> str:
        """Return the start of a sentence that identifies this table."""

    def refuse_gradients(self, rows: Tensor) -> Tensor:
        """Guard looked-up rows against training the table by mistake.

        Args:
            rows: Rows of this table, or values computed from them.

        Returns:
            The same values; a backward pass that reaches them raises LayoutError.

        Raises:
            LayoutError: The module is in training mode.
        """
        if self.frozen:
            return rows
        if self.training:
            raise self._cannot_learn()
        trigger = torch.empty(0, requires_grad=True)
        return cast(Tensor, _Refusal.apply(rows, trigger, self))

    def requires_grad_(self, requires_grad: bool = True) -> FrozenTable:
        """Set whether training reaches the table; with True, training is an error."""
        self.frozen = not requires_grad
        return self

    def _cannot_learn(self) -> LayoutError:
        return LayoutError(
            f"{self.describe()} and cannot be trained.",
            f"{self.way_out}; to train the rest around it, freeze it: "
            "layer.engram.multi_head_embedding.embedding.requires_grad_(False)",
        )


class _Refusal(torch.autograd.Function):
    """Passes rows through, and raises an error for gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, trigger: Tensor, table: FrozenTable) -> Tensor:
        """Return the rows, which now require gradients because the trigger does."""
        ctx.table = table
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Refuse."""
        raise ctx.table._cannot_learn()

"""Update rules of table rows: each changes the rows that a step touched, and no others.

All arithmetic is in the dtype of the gradients that are given: float32, or float64 for such tables.

Shapes: n distinct rows, W values of a row; a column of state is ``[n, 1]`` or ``[n, W]``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engram.errors import UsageError

State = Mapping[str, Tensor]


class RowRule(ABC):
    """Rule by which an optimiser changes rows.

    Attributes:
        name: Its name in `MemoryOptimizer`.
        row_columns: Columns of state with one value a row.
        value_columns: Columns of state with one value for each of the row's.
        needs_all_rows: Whether a step takes every row of the table, not only those it touched.
    """

    name: ClassVar[str]
    row_columns: ClassVar[tuple[str, ...]] = ()
    value_columns: ClassVar[tuple[str, ...]] = ()
    needs_all_rows: ClassVar[bool] = False

    @abstractmethod
    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """Return what is to be subtracted from the rows; the state is updated in place.

        Args:
            grads: Gradients of the rows, duplicates summed ``[n, W]``.
            state: The columns at these rows, by name.
            lr: Learning rate of the tables.
            step: Number of this step, from 1.

        Returns:
            The change ``[n, W]``.
        """


@dataclass(frozen=True)
class RowwiseAdagrad(RowRule):
    """Adagrad with one sum a row: ``s += mean(g^2); w -= lr * g / (sqrt(s) + eps)``.

    The form of FBGEMM's ``EXACT_ROWWISE_ADAGRAD``: the mean over the row's values, epsilon outside
    of the root, no bias correction.
    """

    name = "rowwise-adagrad"
    row_columns = ("sum",)
    eps: float = 1e-8

    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """See `RowRule`."""
        total = state["sum"].add_(grads.square().mean(dim=1, keepdim=True))
        return grads * (lr / (total.sqrt() + self.eps))


@dataclass(frozen=True)
class RowwiseRMSprop(RowRule):
    """RMSprop with one mean a row: ``s = b s + (1 - b) mean(g^2); w -= lr * g / (sqrt(s) + eps)``.

    The mean starts at zero and is not corrected, so that a row's first change is
    ``1 / sqrt(1 - b)`` times the learning rate. The form of FBGEMM's ``ROWWISE_RMSPROP`` without
    decay by age.
    """

    name = "rowwise-rmsprop"
    row_columns = ("mean_square",)
    beta2: float = 0.99
    eps: float = 1e-8

    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """See `RowRule`."""
        mean = state["mean_square"].lerp_(grads.square().mean(dim=1, keepdim=True), 1 - self.beta2)
        return grads * (lr / (mean.sqrt() + self.eps))


@dataclass(frozen=True)
class SparseAdam(RowRule):
    """Lazy Adam, equal to `torch.optim.SparseAdam`: moments of untouched rows do not decay."""

    name = "sparse-adam"
    value_columns = ("exp_avg", "exp_avg_sq")
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """See `RowRule`."""
        mean = state["exp_avg"].lerp_(grads, 1 - self.beta1)
        square = state["exp_avg_sq"].lerp_(grads.square(), 1 - self.beta2)
        size = lr * math.sqrt(1 - self.beta2**step) / (1 - self.beta1**step)
        return size * mean / (square.sqrt() + self.eps)


@dataclass(frozen=True)
class Momentum(RowRule):
    """Nesterov's momentum, as `torch.optim.SGD` has it, at touched rows only."""

    name = "momentum"
    value_columns = ("momentum_buffer",)
    momentum: float = 0.9

    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """See `RowRule`."""
        buffer = state["momentum_buffer"].mul_(self.momentum).add_(grads)
        return lr * (grads + self.momentum * buffer)


@dataclass(frozen=True)
class BalancedMomentum(RowRule):
    """Momentum with rows and columns balanced in turn: Algorithm 1 of DeepSeek-V4.1's report.

    An experiment: a step takes time in proportion to the whole table, since every row's momentum
    decays and columns are normalised over all rows. Made for batches that touch nearly all rows.

    Attributes:
        beta: Decay of the momentum.
        gamma: Factor of the learning rate.
        rounds: Normalisations: of rows when odd, of columns when even; an odd number.
        tau: Rows below this share of the mean norm stay as they are.
        eps: Added to norms.
    """

    name = "balanced-momentum"
    value_columns = ("momentum_buffer",)
    needs_all_rows = True
    beta: float = 0.95
    gamma: float = 0.18
    rounds: int = 11
    tau: float = 1e-3
    eps: float = 1e-20

    def change(self, grads: Tensor, state: State, lr: float, step: int) -> Tensor:
        """See `RowRule`."""
        buffer = state["momentum_buffer"].lerp_(grads, 1 - self.beta)
        ahead = buffer.lerp(grads, 1 - self.beta)
        norms = torch.linalg.vector_norm(ahead, dim=1, keepdim=True)
        balanced = ahead.where(norms > self.tau * norms.mean(), torch.zeros_like(ahead))
        for number in range(1, self.rounds + 1):
            dim = number % 2
            balanced = balanced / (
                torch.linalg.vector_norm(balanced, dim=dim, keepdim=True) + self.eps
            )
        return self.gamma * lr * math.sqrt(balanced.shape[1]) * balanced


_RULES: tuple[type[RowRule], ...] = (
    RowwiseAdagrad,
    RowwiseRMSprop,
    SparseAdam,
    Momentum,
    BalancedMomentum,
)


def find_rule(name: str) -> RowRule:
    """Return the rule of a name, with its default settings.

    Raises:
        UsageError: There is none.
    """
    for rule in _RULES:
        if rule.name == name:
            return rule()
    known = ", ".join(rule.name for rule in _RULES)
    raise UsageError(
        f"table_optimizer must be one of {known}, got {name!r}.",
        "rowwise-adagrad is the default.",
        argument="table_optimizer",
    )

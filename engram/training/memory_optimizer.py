"""`MemoryOptimizer`: trains the tables of memories at the cost of the rows that a step touches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from engram.arguments import checked
from engram.errors import InputError, UsageError
from engram.nn import MultiHeadEmbedding
from engram.tensor_names import is_memory
from engram.training.foreign_clipping import ForeignClipping
from engram.training.row_gradients import refuse_float16
from engram.training.row_rules import find_rule
from engram.training.shards import leave_tables_out_of_ddp
from engram.training.trained_table import TrainedTable


class MemoryOptimizer(torch.optim.AdamW):
    """One optimiser of all trainable parameters: rules of rows for tables, AdamW for the rest.

    Tables get sparse gradients, which the optimiser takes as they come: `.grad` of a table is
    always None. A step sums duplicates, clips rows and dense gradients jointly by their exact norm,
    and changes the rows that were read since the last step, and no others.

    It works in a plain loop, in `transformers.Trainer` and what derives from it (see
    `optimizer_for`; with ``max_grad_norm=0`` there, since this one clips), with accumulated
    gradients, autocast to bfloat16, gradient checkpointing, and several processes. Make it after
    everything that wraps the model, such as PEFT, but before DDP does.

    Tables in bfloat16 are rounded stochastically; see `engram.training.rounding`.

    Args:
        model: The model; frozen parameters are left alone.
        lr: Learning rate of everything but tables.
        table_lr: Learning rate of tables. The paper trains tables with Adam at five times `lr`;
            row-wise rules take rates near 0.1.
        table_optimizer: Rule of tables: ``rowwise-adagrad``, ``rowwise-rmsprop``, ``sparse-adam``
            (lazy Adam), ``momentum`` (Nesterov), or ``balanced-momentum``, an experiment that takes
            time in proportion to the whole table.
        max_grad_norm: Norm to which gradients are clipped; None or 0 for no clipping.
        weight_decay: Decay of matrices that are not tables.
        betas: Of AdamW.
        seed: Seed of stochastic rounding.

    Attributes:
        last_grad_norm: Norm of all gradients in the last step, before clipping; None before it.
        rows_touched: Rows that the last step changed, of all tables and processes.

    Raises:
        UsageError: Nothing in the model can be trained, an argument is not valid, or the model is
            wrapped by DDP already.
    """

    @checked()
    def __init__(
        self,
        model: nn.Module,
        lr: float = 2e-3,
        table_lr: float = 0.1,
        table_optimizer: str = "rowwise-adagrad",
        max_grad_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        seed: int = 0,
    ) -> None:
        for name, value in {"lr": lr, "table_lr": table_lr, "weight_decay": weight_decay}.items():
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number >= 0, got {value}.", argument=name)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise UsageError(
                "The model is wrapped by DistributedDataParallel already, which would exchange "
                "gradients of tables too.",
                "Make the optimiser before it.",
            )
        rule = find_rule(table_optimizer)
        heads = [
            module
            for module in model.modules()
            if isinstance(module, MultiHeadEmbedding)
            and any(weight.requires_grad for weight in module.parameters())
        ]
        self._tables = [
            TrainedTable(module.embedding, rule, seed + number)
            for number, module in enumerate(heads)
        ]
        # Every process gets the rows' gradients from here, or from their owners.
        leave_tables_out_of_ddp(model)
        self._hooks = [module.register_forward_pre_hook(refuse_float16) for module in heads]
        tables = [table.weight for table in self._tables]
        own = set(map(id, tables))
        dense = [it for it in model.parameters() if it.requires_grad and id(it) not in own]
        groups = [
            {"params": [it for it in dense if it.ndim > 1], "weight_decay": weight_decay},
            {"params": [it for it in dense if it.ndim < 2], "weight_decay": 0.0},
            {"params": tables, "lr": table_lr, "weight_decay": 0.0},
        ]
        if not dense and not tables:
            raise UsageError(
                f"{type(model).__name__} has no parameter that requires a gradient.",
                "Freeze less of it: engram.training.freeze_backbone leaves the memory trainable.",
            )
        self.max_grad_norm = max_grad_norm or 0.0
        self.last_grad_norm: float | None = None
        self.rows_touched = 0
        super().__init__([it for it in groups if it["params"]], lr=lr, betas=betas)
        self._dense = dense
        self._clipping = ForeignClipping(dense)
        self.tell_state()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of rows too."""
        super().zero_grad(set_to_none)
        for table in self._tables:
            table.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step with the gradients since the last one.

        Args:
            closure: Computes the loss, and gradients, again.

        Returns:
            The closure's loss.

        Raises:
            InputError: The gradients are not finite; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clip()
        super().step()
        for table in self._tables:
            table.update(scale, float(self.param_groups[-1]["lr"]))
        self.rows_touched = sum(table.rows_touched for table in self._tables)
        self.tell_state()
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        given = dict(state_dict)
        super().load_state_dict(given)
        # AdamW has cast the columns to the tables' own dtype.
        saved = list(chain.from_iterable(group["params"] for group in given["param_groups"]))
        mine = list(chain.from_iterable(group["params"] for group in self.param_groups))
        places = {id(weight): key for weight, key in zip(mine, saved, strict=True)}
        for table in self._tables:
            table.restore(given["state"][places[id(table.weight)]])
        self.tell_state()

    @property
    def tables(self) -> list[TrainedTable]:
        """The tables that are trained, in the order of the model."""
        return self._tables

    def _clip(self) -> float:
        """Clip dense gradients, and return the factor for those of rows."""
        dense = [weight.grad for weight in self._dense if weight.grad is not None]
        square = _squared(dense) + sum(table.sum_gradients() for table in self._tables)
        norm = self.last_grad_norm = math.sqrt(square)
        if not math.isfinite(norm):
            raise InputError(
                f"The gradients are not finite: their norm is {norm}.",
                "Lower the learning rates, and train in bfloat16 or float32.",
            )
        self._clipping.look()
        if not self.max_grad_norm or norm <= self.max_grad_norm:
            return 1.0
        scale = self.max_grad_norm / (norm + 1e-6)
        for grad in dense:
            grad.mul_(scale)
        return scale

    def tell_state(self) -> None:
        """Put the tables' state where `state_dict` finds it, after it was replaced."""
        for table in self._tables:
            self.state[table.weight] = table.state()


def _squared(grads: list[Tensor]) -> float:
    """Sum the squares of dense gradients, sharded ones (FSDP2) over all their shards."""
    if not grads:
        return 0.0
    norm: Any = torch.nn.utils.get_total_norm(grads)
    full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(full) ** 2


def optimizer_for(model: nn.Module | None = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return what `transformers.Trainer` takes as ``optimizer_cls_and_kwargs``.

    Args:
        model: Not needed: the trainer gives its own.
        **options: See `MemoryOptimizer`.

    Examples:
        >>> from engram.training import optimizer_for
        >>> make, options = optimizer_for(table_lr=0.2)
    """
    return _Factory, options


class _Factory:
    """Makes the optimiser when the trainer calls ``Factory()(model, **options)``."""

    def __call__(self, model: nn.Module, **options: Any) -> MemoryOptimizer:
        return MemoryOptimizer(model, **options)


def freeze_backbone(model: nn.Module) -> list[str]:
    """Leave the memory alone to be trained.

    Args:
        model: An attached model.

    Returns:
        Names of the parameters that can be trained.

    Raises:
        UsageError: The model has no memory.
    """
    named = dict(model.named_parameters())
    for name, weight in named.items():
        weight.requires_grad_(is_memory(name))
    trained = [name for name, weight in named.items() if weight.requires_grad]
    if not trained:
        raise UsageError(
            f"{type(model).__name__} has no memory to train.",
            "Give the model that engram.load returned.",
        )
    return trained

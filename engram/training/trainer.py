"""`MemoryTrainer`: transformers' Trainer with data by number and callbacks of a run.

Only documented methods are overridden. Saving and resuming are the run's own: Trainer's checkpoints
are pickles that appear file by file.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.packed_windows import TrainingRows
from engram.training.run import Run


class MicroBatches(IterableDataset[dict[str, Tensor]]):
    """Micro-batches of one process, step after step.

    Args:
        rows: The rows of all.
        batch: Rows of a micro-batch.
        rank: This process.
        ranks: Number of processes.
        first_row: Row to begin with: as many as all processes have read before.
    """

    def __init__(
        self, rows: TrainingRows, batch: int, rank: int = 0, ranks: int = 1, first_row: int = 0
    ) -> None:
        self._rows, self._batch = rows, batch
        self._ranks, self._first = ranks, first_row + rank * batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield micro-batches without end."""
        for first in count(self._first, self._ranks * self._batch):
            yield self._rows.batch(first, self._batch)


class MemoryTrainer(Trainer):  # type: ignore[misc]
    """A Trainer of a run.

    Args:
        run: The run.
        model: What it trains, wrapped by PEFT or not.
        arguments: See `engram.training.trainer_arguments`.
        optimizer: The optimiser.
        batches: The micro-batches of this process.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        arguments: TrainingArguments,
        optimizer: MemoryOptimizer,
        batches: MicroBatches,
    ) -> None:
        self._run, self._batches = run, batches
        self._micro_losses: list[Tensor] = []
        super().__init__(model=model, args=arguments, optimizers=(optimizer, None))
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(_Callback(self, run))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the micro-batches of this process; nobody divides them again."""
        return DataLoader(self._batches, batch_size=None)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss of a micro-batch, and keep it."""
        found = super().compute_loss(
            model,
            {**inputs, "use_cache": False},
            return_outputs=return_outputs,
            num_items_in_batch=num_items_in_batch,
        )
        loss = (found[0] if return_outputs else found).detach()
        if num_items_in_batch is None:
            loss = loss / self.args.gradient_accumulation_steps
        self._micro_losses.append(loss)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log like Trainer, but the run's own loss, and the norm of all gradients."""
        super().log({**logs, **self._run.logged()} if "loss" in logs else logs, start_time)

    def taken_loss(self) -> float:
        """Return the loss of the step that ends, over all processes, and forget it."""
        total = torch.stack(self._micro_losses).sum()
        self._micro_losses.clear()
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
            total /= self.args.world_size
        return float(total)


class _Callback(TrainerCallback):  # type: ignore[misc]
    """Passes the events of a Trainer to a run."""

    def __init__(self, trainer: MemoryTrainer, run: Run) -> None:
        self._trainer, self._run = trainer, run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any
    ) -> None:
        """Go on where a checkpoint was saved."""
        state.global_step = self._run.begin(found["lr_scheduler"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any
    ) -> None:
        """Make the step's random numbers a function of its number."""
        self._run.seed_step(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any
    ) -> None:
        """Record the step; evaluate, save and stop where it is time."""
        if self._run.end_step(state.global_step, self._trainer.taken_loss()):
            control.should_training_stop = True
        evaluated = self._run.evaluated()
        if evaluated is not None:
            self._trainer.log(evaluated)

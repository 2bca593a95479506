"""`Run`: the progress of training: losses, evaluations, checkpoints, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engram.training.checkpoint import (
    Trainees,
    checkpoint_at,
    load_checkpoint,
    save_checkpoint,
)
from engram.training.processes import process_count
from engram.training.row_movement import RowMovement
from engram.training.train_options import TrainOptions

# Records of a run's log, at most about.
_RECORDS = 1000
# Steps at the end whose mean loss is the run's.
_LAST_STEPS = 100


@dataclass(frozen=True)
class RunNews:
    """Progress of a run, after a step.

    Attributes:
        step: Steps so far.
        steps: Steps in all.
        loss: Mean loss of a token in the last steps, in nats.
        held_out: Latest held-out loss in nats a token; None before the first.
        tokens_per_second: Speed since the run was started or resumed, evaluations left out.
        rows_touched: Rows that the last step changed.
        is_evaluation: Whether the held-out loss is of this step.
        row_movement: Distance that rows have moved at the latest evaluation, over their start; None
            before it, and where tables started at zero.
        gate_mean: Mean gate of the last step that was recorded; None without a memory.
    """

    step: int
    steps: int
    loss: float
    held_out: float | None
    tokens_per_second: float
    rows_touched: int
    is_evaluation: bool
    row_movement: float | None = None
    gate_mean: float | None = None


@dataclass
class Run:
    """Progress of training.

    Attributes:
        options: What is trained, and how.
        trainees: Everything that changes.
        steps: Steps in all.
        rows_per_step: Rows of the text that all processes read in a step.
        folder: The folder of its checkpoints.
        evaluate: Returns the held-out loss of the part that is evaluated while training.
        evaluate_every: Steps from one evaluation to the next; 0 for none.
        movement: How far rows have moved.
        rank: This process.
        resume_from: The checkpoint to go on from.
        tell: Told of every step.
        should_stop: Asked after every step whether to save and stop; processes agree.
        log: Records of steps and evaluations.
        interrupted: Whether it stopped before its last step.
        step: Steps so far.
        rows_read: Rows of the text that all processes have read so far.
        seconds: Time of the steps so far.
    """

    options: TrainOptions
    trainees: Trainees
    steps: int
    rows_per_step: int
    folder: Path
    evaluate: Callable[[], float]
    evaluate_every: int
    movement: RowMovement
    rank: int = 0
    resume_from: Path | None = None
    tell: Callable[[RunNews], object] | None = None
    should_stop: Callable[[], bool] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    step: int = 0
    rows_read: int = 0
    seconds: float = 0.0
    _losses: list[float] = field(default_factory=list)
    _held_out: float | None = None
    _moved: float | None = None
    _unlogged: dict[str, float] | None = None
    _unlogged_losses: list[float] = field(default_factory=list)
    _scheduler: Any = None
    _gates: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    _since: float = 0.0
    _steps_here: int = 0
    _seconds_here: float = 0.0

    def begin(self, scheduler: Any = None) -> int:
        """Go on where a checkpoint was saved, and return the number of steps before it.

        Args:
            scheduler: The scheduler of the learning rates; None where no step is left.
        """
        self._scheduler = scheduler
        if self.resume_from is not None:
            found = load_checkpoint(self.resume_from, self.trainees)
            if scheduler is not None:
                scheduler.load_state_dict(found["scheduler"])
            progress = found["progress"]
            self.step, self.seconds = found["step"], progress["seconds"]
            self.rows_read = progress["rows_read"]
            self.log, self._losses = progress["log"], progress["losses"]
            self._held_out = progress["held_out"]
        self._watch_gates()
        self._since = time.monotonic()
        return self.step

    def seed_step(self, step: int) -> None:
        """Seed torch's random numbers, those of dropout, for a step of this process."""
        torch.manual_seed((self.options.seed * 1_000_003 + step) * 4096 + self.rank)
        self._gates.clear()

    def end_step(self, step: int, loss: float) -> bool:
        """Record a step.

        Args:
            step: Its number, from 1.
            loss: Its loss, nats a token.

        Returns:
            Whether the run ends here.
        """
        now = time.monotonic()
        self.seconds += now - self._since
        self._seconds_here += now - self._since
        self._steps_here += 1
        self.step = step
        self.rows_read += self.rows_per_step
        self._losses = [*self._losses[1 - _LAST_STEPS :], loss]
        self._unlogged_losses.append(loss)
        is_last = step >= self.steps
        is_evaluation = _is_time(self.evaluate_every, step) and not is_last
        if is_last or is_evaluation or step % max(1, self.steps // _RECORDS) == 0:
            self.log.append(self._record())
        if is_evaluation:
            self._held_out = self.log[-1]["held_out_nats"] = self.evaluate()
            self._moved = self.log[-1]["row_movement"] = self.movement.moved()
            self._unlogged = {"held_out_nats": self._held_out}
        stop = self._agreed(self.should_stop is not None and self.should_stop())
        self.interrupted = stop and not is_last
        # The last one, too: what follows may be interrupted, and tables in files need a commit.
        if self.interrupted or is_last or _is_time(self._save_every, step):
            self.save()
        if self.tell is not None:
            self.tell(self._news(is_evaluation))
        self._since = time.monotonic()
        return is_last or stop

    def save(self) -> Path:
        """Save a checkpoint; a collective."""
        state = {
            "progress": {
                "seconds": self.seconds,
                "rows_read": self.rows_read,
                "log": self.log,
                "losses": self._losses,
                "held_out": self._held_out,
                "steps": self.steps,
            },
            "scheduler": {
                key: value
                for key, value in self._scheduler.state_dict().items()
                if isinstance(value, (int, float, list, bool))
            },
        }
        return save_checkpoint(
            self.folder, self.trainees, self.step, state, is_first=self.rank == 0
        )

    def logged(self) -> dict[str, float]:
        """Return what a step adds to the trainer's log, or replaces in it."""
        optimizer, losses = self.trainees.optimizer, self._unlogged_losses
        self._unlogged_losses = []
        return {
            # Trainer's own would be divided by the steps before a checkpoint, too.
            "loss": math.fsum(losses) / len(losses),
            "grad_norm": optimizer.last_grad_norm or 0.0,
            "rows_touched": optimizer.rows_touched,
            "tokens_per_second": round(self.tokens_per_second),
        }

    def evaluated(self) -> dict[str, float] | None:
        """Return an evaluation that was not told yet."""
        found, self._unlogged = self._unlogged, None
        return found

    @property
    def tokens(self) -> int:
        """Tokens that all processes have read."""
        return self.rows_read * self.options.context

    @property
    def latest(self) -> Path:
        """The checkpoint of the last step, where it was saved."""
        return checkpoint_at(self.folder, self.step)

    @property
    def train_nats(self) -> float:
        """Mean loss of the last steps, nats a token."""
        return math.fsum(self._losses) / max(1, len(self._losses))

    @property
    def tokens_per_second(self) -> float:
        """Speed since the run was started or resumed."""
        return (
            self._steps_here
            * self.rows_per_step
            * self.options.context
            / max(self._seconds_here, 1e-9)
        )

    def _news(self, is_evaluation: bool) -> RunNews:
        gates = list(self.log[-1]["gate_means"].values()) if self.log else []
        return RunNews(
            self.step,
            self.steps,
            self.train_nats,
            self._held_out,
            self.tokens_per_second,
            self.trainees.optimizer.rows_touched,
            is_evaluation,
            self._moved,
            sum(gates) / len(gates) if gates else None,
        )

    def _record(self) -> dict[str, Any]:
        optimizer = self.trainees.optimizer
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": self._losses[-1],
            "grad_norm": optimizer.last_grad_norm,
            "lr": [group["lr"] for group in optimizer.param_groups],
            "rows_touched": optimizer.rows_touched,
            "gate_means": {
                str(layer_id): float(total) / count
                for layer_id, (total, count) in self._gates.items()
                if count
            },
        }

    def _watch_gates(self) -> None:
        """Keep the sum of a step's gates of every layer, and their number."""
        memory = self.trainees.memory

        def watch(layer_id: int) -> Callable[..., None]:
            def add(gates: Tensor, *_: Tensor) -> None:
                total, count = self._gates.get(layer_id, (0, 0))
                self._gates[layer_id] = total + gates.float().sum(), count + gates.numel()

            return add

        for layer_id, module in ({} if memory is None else memory.modules).items():
            module.on_read = watch(layer_id)

    @property
    def _save_every(self) -> int:
        given = self.options.save_every
        return max(1, self.steps // 10) if given is None else given

    def _agreed(self, stop: bool) -> bool:
        """Whether any process wants to stop."""
        if process_count() == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.trainees.device)
        torch.distributed.all_reduce(flag)
        return bool(flag)


def _is_time(every: int, step: int) -> bool:
    """Whether a step is one of every so many; none is of 0."""
    return every > 0 and step % every == 0

"""`Session`: a run that is ready to start: model, data, optimiser, and what they will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from engram.checkpoints.report.report import report
from engram.errors import EngramError
from engram.nn import ShardedEmbedding
from engram.sizing.distance_moved import distance_moved
from engram.sizing.optimizers import optimizer_of
from engram.sizing.run_options import ReportOptions
from engram.storage.files import Progress
from engram.training.checkpoint import Trainees, rows_read_before, step_of
from engram.training.document_loss import DocumentLosses, document_losses
from engram.training.documents import TrainingDocuments
from engram.training.forecast import Forecast
from engram.training.memory_folder import Origin
from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.new_base import NewBase
from engram.training.packed_windows import TrainingRows
from engram.training.row_movement import RowMovement
from engram.training.run import Run, RunNews
from engram.training.run_folder import RunFolder
from engram.training.train_options import TrainOptions
from engram.training.trained_model import TrainedModel

# Micro-batches whose time is taken before a run starts; the first is slower.
_MEASURED = 3
# Share of a step's time that its forward pass takes.
_FORWARD = 0.43
# Evaluations of a run, and share of its time that they may take, where nobody says how often.
_EVALUATIONS, _EVALUATING = 10, 0.2


@dataclass(frozen=True)
class Listeners:
    """Functions that are told of a run.

    Attributes:
        forecast: Told what the run will take, before its first step.
        news: Told of every step.
        evaluation: Told the tokens of an evaluation so far, and in all.
        should_stop: Asked after every step whether to save and stop.
    """

    forecast: Callable[[Forecast], object] | None = None
    news: Callable[[RunNews], object] | None = None
    evaluation: Progress | None = None
    should_stop: Callable[[], bool] | None = None


@dataclass
class Session:
    """A run that is ready to start.

    Attributes:
        options: What is trained, and how.
        listeners: Who is told of it.
        place: Its folder.
        origin: The attached folder that it starts from.
        documents: The text.
        trained: The model.
        optimizer: The optimiser.
        rows: The rows of the text.
    """

    options: TrainOptions
    listeners: Listeners
    place: RunFolder
    origin: Origin
    documents: TrainingDocuments
    trained: TrainedModel
    optimizer: MemoryOptimizer
    rows: TrainingRows
    movement: RowMovement = field(init=False)

    def __post_init__(self) -> None:
        file = None
        if self.trained.journal is not None:
            file = self.place.tables / "rows-before.safetensors"
        # Of a control the rows that learn are not a sample of all: uniform has one a head.
        tables = [] if self.options.control else self.optimizer.tables
        self.movement = RowMovement(tables, self.options.seed, file)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all processes read in a step."""
        options = self.options
        return options.batch * options.accumulate * options.context * self.place.ranks

    @property
    def params(self) -> int:
        """Parameters of the model, with the rows of all processes."""
        model = self.trained.model
        here: int = sum(weight.numel() for weight in model.parameters())
        shared = [it for it in model.modules() if isinstance(it, ShardedEmbedding)]
        for it in shared:
            here += it.num_embeddings * it.embedding_dim - it.weight.numel()
        return here

    def settings(self, model: str | Path | NewBase) -> dict[str, Any]:
        """Return what the result of the run depends on, and the model's name.

        Args:
            model: The model, as it was named.
        """
        name = model.name if isinstance(model, NewBase) else str(model)
        if not isinstance(model, NewBase) and Path(model).is_dir():
            name = str(Path(model).resolve())
        return {
            **self.options.to_dict(),
            "new_base": model.to_dict() if isinstance(model, NewBase) else None,
            "model": name,
            "memory": self.origin.opened.addresses.fingerprint,
            "data_sha256": self.documents.sha256,
        }

    def count_steps(self, step_seconds: float) -> int:
        """Return the number of steps that were asked for.

        Args:
            step_seconds: Time of a step.
        """
        options = self.options
        if options.steps is not None:
            return options.steps
        if options.minutes is not None:
            return max(1, int(options.minutes * 60 / step_seconds))
        tokens = options.tokens or self.rows.rows_per_epoch * options.context
        return max(1, tokens // self.tokens_per_step)

    def steps_between_evaluations(self, steps: int) -> int:
        """Return the steps from one evaluation to the next; 0 for none.

        Args:
            steps: Steps in all.
        """
        if self.options.evaluate_every is not None:
            return self.options.evaluate_every
        one = min(self._held_out_tokens, self.options.held_out_tokens) * self.place.ranks
        affordable = _EVALUATING * steps * self.tokens_per_step / (_FORWARD * one)
        count = min(_EVALUATIONS, int(affordable))
        return max(1, steps // count) if count else 0

    @property
    def _held_out_tokens(self) -> int:
        return int(self.documents.lengths[self.documents.held_out].sum())

    def batches(self, first_row: int = 0) -> Any:
        """Return the micro-batches of this process.

        Args:
            first_row: Row of the text to begin with.
        """
        from engram.training.trainer import MicroBatches

        place = self.place
        return MicroBatches(self.rows, self.options.batch, place.rank, place.ranks, first_row)

    def step_seconds(self) -> float:
        """Time a step, forward and backward; nothing is changed. A collective, of one result."""
        model = self.trained.model
        device = next(model.parameters()).device
        was_training = model.training
        model.train()
        times = []
        for batch, _ in zip(self.batches(), range(_MEASURED), strict=False):
            start = time.monotonic()
            inputs = {name: value.to(device) for name, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bf16):
                loss = model(**inputs, use_cache=False).loss
            loss.backward()
            self.optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.monotonic() - start)
        model.train(was_training)
        seconds = torch.tensor(min(times), device=device)
        if self.place.ranks > 1:
            dist.all_reduce(seconds, dist.ReduceOp.MAX)
        return float(seconds) * self.options.accumulate

    def forecast(self, steps: int, step_seconds: float, done_steps: int = 0) -> Forecast:
        """Say what a number of steps will take, and how far they move rows.

        Args:
            steps: Steps in all.
            step_seconds: Time of a step.
            done_steps: Those that were made before.
        """
        config, layers = self.origin.opened.config, self.origin.opened.addresses.layers
        tokens = steps * self.tokens_per_step
        heads = len(config.orders) * config.n_head_per_ngram
        is_uniform = self.options.control == "uniform"  # each head reads one row
        rows = sum(heads if is_uniform else layer.hash_rows for layer in layers)
        lookups = 0 if self.trained.memory is None else tokens * heads * len(layers)
        touches = lookups / rows
        start = self.movement.start_rms
        held_out = self._held_out_tokens
        in_steps = held_out * self.place.ranks / self.tokens_per_step
        distance = distance_moved(touches, self.options.table_lr, self.options.table_optimizer)
        return Forecast(
            steps=steps,
            tokens=tokens,
            seconds=(steps - done_steps) * step_seconds,
            touches_per_row=touches,
            start_rms=start,
            movement=distance / start if start else None,
            memory_bytes=_memory_bytes(self.origin, self.options),
            held_out_tokens=held_out,
            evaluation_seconds=_FORWARD * in_steps * step_seconds,
            done_steps=done_steps,
        )

    def held_out(self, most_tokens: int | None = None) -> DocumentLosses:
        """Measure the held-out losses; every process does so.

        Args:
            most_tokens: Read so many tokens at most; all when None.
        """
        return document_losses(
            self.trained.model,
            self.documents.read_held_out(most_tokens),
            self.origin.folder,
            context=self.options.context,
            dtype=torch.bfloat16 if self.options.bf16 else None,
            progress=self.listeners.evaluation,
        )

    def run(self, steps: int, latest: Path | None) -> Run:
        """Train.

        Args:
            steps: Steps in all.
            latest: The checkpoint to go on from.

        Returns:
            The run, at its last step or where it was stopped.
        """
        from engram.training.trainer import MemoryTrainer
        from engram.training.trainer_arguments import trainer_arguments

        trained, place = self.trained, self.place
        first = 0 if latest is None else step_of(latest)
        run = Run(
            options=self.options,
            trainees=Trainees(
                trained.model, trained.memory, self.optimizer, self.origin, trained.journal
            ),
            steps=steps,
            rows_per_step=self.tokens_per_step // self.options.context,
            folder=place.folder,
            evaluate=lambda: self.held_out(self.options.held_out_tokens).nats_per_token,
            evaluate_every=self.steps_between_evaluations(steps),
            movement=self.movement,
            rank=place.rank,
            resume_from=latest,
            tell=self.listeners.news,
            should_stop=self.listeners.should_stop,
        )
        if first >= steps:
            run.begin()
            return run
        arguments = trainer_arguments(self.options, place.folder, steps)
        batches = self.batches(0 if latest is None else rows_read_before(latest))
        with _same_use_of_caches(trained.model):
            MemoryTrainer(run, trained.model, arguments, self.optimizer, batches).train()
        return run


def _memory_bytes(origin: Origin, options: TrainOptions) -> int | None:
    """Estimate the bytes of memory, as `engram report` does; None where it cannot."""
    planned = ReportOptions(
        mode="training",
        train=options.train,
        optimizer=optimizer_of(options.table_optimizer),
        tables="disk" if options.tables == "disk" else "cpu",
        context=options.context,
        batch=options.batch,
    )
    try:
        rows = report(origin.folder, options=planned).use.rows
    except EngramError:
        return None
    return sum(row.size_bytes for row in rows if row.place != "disk")


@contextmanager
def _same_use_of_caches(model: Any) -> Iterator[None]:
    """Put the model's config back as it was: Trainer turns caches off."""
    before = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        if before is not None:
            model.config.use_cache = before

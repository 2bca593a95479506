"""`train`: trains the memory of an attached model, and writes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from engram.arguments import checked
from engram.checkpoints.attach.own_files import own_files
from engram.checkpoints.report.report import report
from engram.config.engram_config import EngramConfig
from engram.corpus.text.text_options import TextOptions
from engram.errors import EngramError, MissingPackageError
from engram.sizing.run_options import ReportOptions
from engram.sizing.size_options import SizeOptions
from engram.storage.files import Progress
from engram.storage.folders import check_folder, demand_apart
from engram.training.checkpoint import Trainees, step_of
from engram.training.document_loss import DocumentLosses, document_losses, paired_difference
from engram.training.documents import TrainingDocuments
from engram.training.forecast import Forecast, distance_moved
from engram.training.memory_folder import Origin, read_origin
from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.packed_windows import (
    PackedWindows,
    SeparateDocuments,
    TrainingRows,
    packs_documents,
)
from engram.training.row_movement import RowMovement, count_touched
from engram.training.run import Run, RunNews
from engram.training.run_folder import RunFolder
from engram.training.shards import shard_tables
from engram.training.start import find_start
from engram.training.train_options import TrainOptions
from engram.training.trained import Trained
from engram.training.trained_model import prepare_model

# Micro-batches whose time is taken before a run starts; the first is slower.
_MEASURED = 3


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


@checked()
def train(
    model: str | Path,
    output: str | Path,
    data: str | Path | Iterable[Any],
    *,
    config: str | Path | EngramConfig | SizeOptions | None = None,
    options: TrainOptions | None = None,
    text: TextOptions | None = None,
    init: Literal["identity", "zero-table", "paper"] = "zero-table",
    adapter: bool = False,
    link: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] | None = None,
    listeners: Listeners | None = None,
) -> Trained:
    """Train the memory of a model, and write a folder that `engram.load` takes.

    A base without a memory gets one first, as `engram.attach` gives it. While it trains,
    checkpoints lie in a folder beside the output, named after it.

    Args:
        model: An attached folder, or a base: a folder or a hub id.
        output: The folder to appear.
        data: A folder of token shards, or a text (file or folder), or documents.
        config: The memory of a base without one; see `engram.attach`.
        options: What is trained, on how much, and how.
        text: How a text is read.
        init: Start of the memory of a base without one.
        adapter: Write the memory alone, to be loaded beside its base.
        link: Hard-link the base's weight files instead of copying them.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Run the code in the base's folder, where its model is defined there.
        overwrite: Replace an attached folder that is at the output, and start anew where there are
            checkpoints.
        resume: Go on from the last checkpoint of an interrupted run with the same options.
        command: The command to state in the model card.
        listeners: Functions that are told of the run.

    Returns:
        The run's numbers; `to_dict()` is what ``engram train --json`` prints.

    Raises:
        EngramError: Whatever does not fit: the model, the data, the output, the options.

    Examples:
        >>> import engram.training
        >>> options = engram.training.TrainOptions(steps=2, batch=1, context=32)
        >>> engram.training.train("attached", "trained", "corpus.txt", options=options).steps
        2
    """
    _demand_accelerate()
    from engram.training.trainer import MemoryTrainer, MicroBatches
    from engram.training.trainer_arguments import trainer_arguments

    options, listeners = options or TrainOptions(), listeners or Listeners()
    output = Path(output)
    arguments = trainer_arguments(options, output, 1)
    rank, ranks = arguments.process_index, arguments.world_size
    demand_apart(output, Path(model))
    check_folder(output, own_files, overwrite)
    place = RunFolder(output, rank, ranks)
    place.open(resume=resume, overwrite=overwrite)
    opened, folder = find_start(
        model, place, config, init, revision=revision, trust_remote_code=trust_remote_code
    )
    origin = read_origin(opened, folder)
    documents = TrainingDocuments(
        data, folder, options=text, held_out_share=options.held_out, seed=options.seed
    )
    trained = prepare_model(
        opened, folder, options, arguments.device, place, trust_remote_code=trust_remote_code
    )
    if ranks > 1:
        shard_tables(trained.model)
    optimizer = MemoryOptimizer(
        trained.model,
        options.lr,
        options.table_lr,
        options.table_optimizer,
        options.max_grad_norm,
        options.weight_decay,
        seed=options.seed,
    )
    movement = RowMovement(optimizer.tables, options.seed)
    rows = _rows_for(trained.model, documents, options)
    batches = MicroBatches(rows, options.batch, options.accumulate, rank, ranks)
    per_step = options.batch * options.accumulate * options.context * ranks
    settings = {**options.to_dict(), "data_sha256": documents.sha256, "model": str(model)}
    resumed = place.resumed(settings) if resume else None
    seconds = _step_seconds(trained.model, optimizer, batches, options)
    steps = _count_steps(options, rows, per_step, seconds) if resumed is None else resumed["steps"]
    place.begin({**settings, "steps": steps})
    forecast = _forecast(origin, options, movement, steps, per_step, seconds * steps)
    if listeners.forecast is not None:
        listeners.forecast(forecast)

    def losses_of(most_tokens: int | None) -> DocumentLosses:
        return document_losses(
            trained.model,
            documents.read_held_out(most_tokens),
            folder,
            context=options.context,
            dtype=torch.bfloat16 if options.bf16 else None,
            progress=listeners.evaluation,
        )

    start = place.losses_before(lambda: losses_of(None))
    latest = place.latest(trained.journal) if resume else None
    trainees = Trainees(trained.model, trained.memory, optimizer, origin, trained.journal)
    run = Run(
        options,
        trainees,
        steps,
        per_step,
        place.folder,
        lambda: losses_of(options.held_out_tokens).nats_per_token,
        rank,
        latest,
        listeners.news,
        listeners.should_stop,
    )
    first = 0 if latest is None else step_of(latest)
    trainer = MemoryTrainer(
        run,
        trained.model,
        trainer_arguments(options, place.folder, steps),
        optimizer,
        MicroBatches(rows, options.batch, options.accumulate, rank, ranks, first),
    )
    if first < steps:
        with _same_use_of_caches(trained.model):
            trainer.train()
    else:
        run.begin()
    result = Trained(
        options=options,
        output=None,
        steps=run.step,
        tokens=run.step * per_step,
        seconds=run.seconds,
        train_nats=run.train_nats,
        start=start,
        forecast=forecast,
        checkpoint=place.folder / f"checkpoint-{run.step:08d}" if run.interrupted else None,
        documents=documents,
        log=tuple(run.log),
    )
    if run.interrupted:
        return result
    touched, moved, rms = count_touched(optimizer.tables), movement.moved(), movement.now_rms()
    trained.finish()
    end = losses_of(None)
    result = replace(
        result,
        end=end,
        difference=paired_difference(end, start, seed=options.seed),
        rows_touched=touched,
        row_movement=moved,
        row_rms=rms,
    )
    return place.finish(
        result, trained, origin, command, adapter=adapter, link=link, overwrite=overwrite
    )


def _demand_accelerate() -> None:
    """Refuse to start without the package that Trainer needs."""
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise MissingPackageError("accelerate", "train", "Training") from None


def _rows_for(model: Any, documents: TrainingDocuments, options: TrainOptions) -> TrainingRows:
    """Pack documents into rows where the model keeps them apart; else one document is a row."""
    kind = PackedWindows if packs_documents(model) else SeparateDocuments
    return kind(documents, options.context, options.seed)


def _step_seconds(
    model: Any, optimizer: MemoryOptimizer, batches: Iterable[Any], options: TrainOptions
) -> float:
    """Time a step, forward and backward; nothing is changed. All processes take the same time."""
    device = next(model.parameters()).device
    modes = model.training
    model.train()
    times = []
    for number, batch in enumerate(batches):
        if number == _MEASURED:
            break
        start = time.monotonic()
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - start)
    model.train(modes)
    seconds = torch.tensor(min(times), device=device, dtype=torch.float64)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return float(seconds) * options.accumulate


def _count_steps(
    options: TrainOptions, rows: TrainingRows, tokens_per_step: int, seconds: float
) -> int:
    if options.steps is not None:
        return options.steps
    if options.minutes is not None:
        return max(1, int(options.minutes * 60 / seconds))
    tokens = options.tokens or rows.rows_per_epoch * options.context
    return max(1, tokens // tokens_per_step)


def _forecast(
    origin: Origin,
    options: TrainOptions,
    movement: RowMovement,
    steps: int,
    tokens_per_step: int,
    seconds: float,
) -> Forecast:
    config = origin.opened.config
    rows = [layer.hash_rows for layer in origin.opened.addresses.layers]
    heads = len(config.orders) * config.n_head_per_ngram * len(rows)
    touches = steps * tokens_per_step * heads / sum(rows)
    start = movement.start_rms
    distance = distance_moved(touches, options.table_lr, options.table_optimizer)
    return Forecast(
        steps=steps,
        tokens=steps * tokens_per_step,
        seconds=seconds,
        touches_per_row=touches,
        start_rms=start,
        movement=distance / start if start else None,
        memory_bytes=_memory_bytes(origin, options),
    )


def _memory_bytes(origin: Origin, options: TrainOptions) -> int | None:
    """Estimate the bytes of training, as `engram report` does; None where it cannot."""
    optimizer: Any = options.table_optimizer
    planned = ReportOptions(
        mode="training",
        train=options.train,
        # The two rules with one value a row take as much.
        optimizer="rowwise-adagrad" if optimizer == "rowwise-rmsprop" else optimizer,
        tables="cpu",
        context=options.context,
        batch=options.batch,
    )
    try:
        return report(origin.folder, options=planned).use.total_bytes
    except EngramError:
        return None


@contextmanager
def _same_use_of_caches(model: Any) -> Iterator[None]:
    """Put the model's configs back as they were: Trainer turns caches off."""
    before = model.config.use_cache if hasattr(model.config, "use_cache") else None
    try:
        yield
    finally:
        if before is not None:
            model.config.use_cache = before

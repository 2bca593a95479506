"""`train`: trains the memory of an attached model, and writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.corpus.text.text_options import TextOptions
from engram.errors import MissingPackageError, UsageError
from engram.sizing.size_options import SizeOptions
from engram.storage.folders import check_folder, demand_apart
from engram.training.checkpoint import step_of
from engram.training.document_loss import paired_difference
from engram.training.documents import TrainingDocuments
from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.new_base import NewBase, scale_note
from engram.training.output_folder import own_result_files, write_output
from engram.training.packed_windows import (
    PackedWindows,
    SeparateDocuments,
    TrainingRows,
    packs_documents,
)
from engram.training.processes import process_count
from engram.training.row_movement import count_touched
from engram.training.run_folder import RunFolder
from engram.training.session import Listeners, Session
from engram.training.shards import shard_tables
from engram.training.start import find_start
from engram.training.train_options import TrainOptions
from engram.training.trained import Trained
from engram.training.trained_model import TrainedModel, prepare_model


@checked()
def train(
    model: str | Path | NewBase,
    output: str | Path,
    data: str | Path | Iterable[Any],
    *,
    config: str | Path | EngramConfig | SizeOptions | None = None,
    options: TrainOptions | None = None,
    text: TextOptions | None = None,
    init: Init = "zero-table",
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
        model: An attached folder; or a base: a folder or a hub id; or the description of a base
            with random weights, see `read_new_base`, of which all is trained.
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
    from engram.training.trainer_arguments import trainer_arguments

    options = options or TrainOptions()
    output = Path(output)
    if output.name in ("", ".."):
        output = output.resolve()  # the run's folder beside it takes its name
    arguments = trainer_arguments(options, output, 1)
    place = RunFolder(output, arguments.process_index, arguments.world_size)
    _check_combination(model, options, adapter)
    if not isinstance(model, NewBase):
        demand_apart(output, Path(model))
        demand_apart(place.folder, Path(model))
    check_folder(output, own_result_files, overwrite)
    with place.opened(resume=resume, overwrite=overwrite) as goes_on:
        origin = find_start(
            model, place, config, init, revision=revision, trust_remote_code=trust_remote_code
        )
        if adapter and origin.adapter is None:
            raise UsageError(
                f"{model} was saved anew: an adapter of it would have no base.",
                "Leave --adapter out: all weights are written.",
            )
        documents = TrainingDocuments(
            data,
            origin.folder,
            options=text,
            held_out_share=options.held_out,
            seed=options.held_out_seed,
        )
        trained = prepare_model(
            origin.opened,
            origin.folder,
            options,
            arguments.device,
            place,
            trust_remote_code=trust_remote_code,
        )
        with closing(trained):
            session = Session(
                options,
                listeners or Listeners(),
                place,
                origin,
                documents,
                trained,
                _optimizer(trained, options),
                _rows_for(trained.model, documents, options),
            )
            result = _train(session, model, goes_on=goes_on)
            if result.end is None:
                return result
            return write_output(
                place,
                result,
                trained,
                origin,
                command,
                adapter=adapter,
                link=link,
                overwrite=overwrite,
            )


def _check_combination(model: str | Path | NewBase, options: TrainOptions, adapter: bool) -> None:
    """Refuse what excludes each other."""
    if options.train != "all" and (isinstance(model, NewBase) or options.control == "none"):
        raise UsageError(
            "A base with random weights, or one alone, has to be trained itself.",
            "Give --train all.",
        )
    if isinstance(model, NewBase) and options.control == "dense":
        raise UsageError(
            "A dense control refers to its base, and a base with random weights is not kept.",
            "Write it first: engram.training.write_new_base; then train its folder.",
        )
    if adapter and (options.train != "memory" or options.control in ("dense", "none")):
        raise UsageError(
            "An adapter is a memory alone, beside a base that stays as it is.",
            "Leave --adapter out, or --train and --control.",
        )


def _train(session: Session, model: str | Path | NewBase, *, goes_on: bool) -> Trained:
    """Run a session to its end, or until it is stopped."""
    place, settings, note = session.place, session.settings(model), session.documents.note
    notes: tuple[str, ...] = () if note is None else (note,)
    before = place.resumed(settings) if goes_on else None
    seconds = session.step_seconds()
    steps = session.count_steps(seconds) if before is None else before["steps"]
    place.begin({**settings, "steps": steps})
    latest = place.latest(session.trained.journal) if goes_on else None
    forecast = session.forecast(steps, seconds, 0 if latest is None else step_of(latest))
    if session.listeners.forecast is not None:
        session.listeners.forecast(forecast)
    start = place.losses_before(session.held_out)
    run = session.run(steps, latest)
    if isinstance(model, NewBase):
        scale = scale_note(session.params, run.tokens)
        notes += (model.note, scale) if model.note else (scale,)
    result = Trained(
        options=session.options,
        output=None,
        steps=run.step,
        tokens=run.tokens,
        seconds=run.seconds,
        train_nats=run.train_nats,
        start=start,
        forecast=forecast,
        checkpoint=run.latest if run.interrupted else None,
        documents=session.documents,
        log=tuple(run.log),
        notes=notes,
    )
    if run.interrupted:
        return result
    tables, movement = session.optimizer.tables, session.movement
    touched, moved, rms = count_touched(tables), movement.moved(), movement.now_rms()
    session.trained.finish()
    end = session.held_out()
    return replace(
        result,
        end=end,
        difference=paired_difference(end, start),
        rows_touched=touched,
        row_movement=moved,
        row_rms=rms,
    )


def _demand_accelerate() -> None:
    """Refuse to start without the package that Trainer needs."""
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise MissingPackageError("accelerate", "train", "Training") from None


def _optimizer(trained: TrainedModel, options: TrainOptions) -> MemoryOptimizer:
    """Divide the tables among processes, where there are several, and make the optimiser."""
    if process_count() > 1:
        shard_tables(trained.model)
    return MemoryOptimizer(
        trained.model,
        options.lr,
        options.table_lr,
        options.table_optimizer,
        options.max_grad_norm,
        options.weight_decay,
        seed=options.seed,
    )


def _rows_for(model: Any, documents: TrainingDocuments, options: TrainOptions) -> TrainingRows:
    """Pack documents into rows where the model keeps them apart; else one document is a row."""
    kind = PackedWindows if packs_documents(model) else SeparateDocuments
    return kind(documents, options.context, options.seed)

"""Checkpoints of a run: folders that appear whole or not at all, from which it goes on exactly.

A checkpoint holds the memory as an adapter does, and in `STATE` all else that the next step depends
on: other trained weights, the optimiser's state as columns beside the rows, and the progress. The
order of the data and the random numbers of dropout follow from the seed and the step.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engram.errors import CorruptFileError, InputError
from engram.storage import folders
from engram.storage.files import write_json
from engram.storage.json_files import COPY_AGAIN, COUNT, OBJECT, read_json
from engram.storage.row_journal import Journal
from engram.storage.safetensors_headers import INDEX_FILE, read_header, read_weight_map
from engram.storage.staging import discard
from engram.training.live_memory import (
    LiveMemory,
    dense_state,
    restore_dense_state,
    row_state,
    trained_weights,
)
from engram.training.memory_folder import Origin, write_adapter
from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.processes import wait_for_all
from engram.training.tensor_files import SharedRows, fill_rows, read_tensors, write_tensors

STATE = "training"
_PROGRESS, _WEIGHTS, _DENSE, _ROWS = (
    "state.json",
    "weights.safetensors",
    "dense.safetensors",
    "rows.safetensors",
)
_NAME = re.compile(r"checkpoint-(\d{1,12})")
_SHAPE = {
    "step": COUNT,
    "progress": {"rows_read": COUNT},
    "scheduler": OBJECT,
    "groups": OBJECT,
}


@dataclass(frozen=True)
class Trainees:
    """Everything that a run changes.

    Attributes:
        model: The model, without wrappers of torch.
        memory: Its memory; None of a control without one.
        optimizer: The optimiser.
        origin: The attached folder that the run started from.
        journal: Journal of tables in files; None of tables in memory.
    """

    model: nn.Module
    memory: LiveMemory | None
    optimizer: MemoryOptimizer
    origin: Origin
    journal: Journal | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model's first parameter."""
        return next(self.model.parameters()).device


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the latest last."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    whole = [path for path in found if (path / STATE / _PROGRESS).is_file()]
    return sorted(whole, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps before a checkpoint."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else 0


def rows_read_before(checkpoint: Path) -> int:
    """Return the rows of the text that all processes had read before a checkpoint."""
    found = _progress_of(checkpoint)
    return int(found["progress"]["rows_read"])


def _progress_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(checkpoint / STATE / _PROGRESS, _SHAPE, hint=COPY_AGAIN)
    return found


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the place of the checkpoint after a number of steps."""
    return folder / f"checkpoint-{step:08d}"


def save_checkpoint(
    folder: Path,
    trainees: Trainees,
    step: int,
    state: dict[str, Any],
    *,
    is_first: bool,
    keep: int = 2,
) -> Path:
    """Save a run, whole or not at all; a collective.

    Args:
        folder: The folder of its checkpoints.
        trainees: Everything that it changes.
        step: Steps so far.
        state: The progress and the scheduler, for JSON.
        is_first: Whether this process is the one that writes.
        keep: Checkpoints to leave there, this one included.

    Returns:
        The checkpoint.
    """
    path = checkpoint_at(folder, step)
    journal = trainees.journal
    groups = {
        str(number): {key: group[key] for key in ("lr", "initial_lr") if key in group}
        for number, group in enumerate(trainees.optimizer.param_groups)
    }
    written = {"step": step, "groups": groups, **state}
    if journal is not None:
        journal.prepare()
        wait_for_all()
    if is_first:
        if path.exists():
            discard(path)  # of an earlier run to here, whose later steps were lost
        with folders.new_folder(path, lambda _: None, overwrite=False) as place:
            _write(place, trainees, written)
    else:
        _write(None, trainees, written)
    if journal is not None:
        _commit(journal, {"step": step}, is_first)
    if is_first:
        there = checkpoints_in(folder)
        # Of tables in files there is one state, that of the last commit; a later checkpoint was
        # never committed.
        for old in there[:-keep] if journal is None else [it for it in there if it != path]:
            discard(old)
    return path


def _commit(journal: Journal, payload: dict[str, Any], is_first: bool) -> None:
    """Make the changed rows of all processes permanent; a collective."""
    if is_first:
        journal.mark(payload)
    wait_for_all()
    journal.copy()
    wait_for_all()
    if is_first:
        journal.finish()
    wait_for_all()
    journal.forget()


def _write(place: Path | None, trainees: Trainees, written: dict[str, Any]) -> None:
    def at(name: str) -> Path | None:
        return None if place is None else place / STATE / name

    if place is not None:
        (place / STATE).mkdir()
    model, optimizer, memory = trainees.model, trainees.optimizer, trainees.memory
    if memory is not None and trainees.journal is None:
        card = "A checkpoint of training: the memory alone, and in training/ its state.\n"
        write_adapter(place, trainees.origin, memory.contents(), card)
        write_tensors(at(_ROWS), row_state(optimizer, memory.tables))
    write_tensors(at(_WEIGHTS), trained_weights(model))
    write_tensors(at(_DENSE), dense_state(model, optimizer))
    path = at(_PROGRESS)
    if path is not None:
        write_json(path, written)


def load_checkpoint(path: Path, trainees: Trainees) -> dict[str, Any]:
    """Go on where a checkpoint was saved, with as many processes or others.

    Args:
        path: The checkpoint.
        trainees: Everything that the run changes, as it was when the run began.

    Returns:
        What `save_checkpoint` was given as state, and ``step``.

    Raises:
        CorruptFileError: A file is damaged.
        InputError: It was saved by a run that trained other parameters.
    """
    found = _progress_of(path)
    model, optimizer, memory = trainees.model, trainees.optimizer, trainees.memory
    weights = _reading(path / STATE / _WEIGHTS, read_tensors)
    mine = trained_weights(model)
    if {name: tuple(it.shape) for name, it in weights.items()} != {
        name: tuple(it.shape) for name, it in mine.items()
    }:
        differing = sorted(weights.keys() ^ mine.keys())[:3] or ["shapes"]
        raise InputError(
            f"{path} was saved by a run that trained other parameters: {', '.join(differing)}.",
            "Resume with the options that the run was started with.",
            path=str(path),
        )
    for name, value in weights.items():
        mine[name].copy_(value)
    restore_dense_state(model, optimizer, _reading(path / STATE / _DENSE, read_tensors))
    if memory is not None and trainees.journal is None:
        files = read_weight_map(path / INDEX_FILE)
        for name, value in memory.contents().items():
            if isinstance(value, SharedRows):
                fill_rows(path / files[name], name, value.rows)
        rows = path / STATE / _ROWS
        for name, column in row_state(optimizer, memory.tables).items():
            if isinstance(column, SharedRows):
                fill_rows(rows, name, column.rows)
    for table in optimizer.tables:
        table.steps = found["step"]
    optimizer.tell_state()
    for number, group in enumerate(optimizer.param_groups):
        group |= found["groups"][str(number)]
    return found


def _reading(path: Path, read: Callable[[Path], Any]) -> Any:
    read_header(path)  # its errors name the file, and the next step
    try:
        return read(path)
    except Exception as error:  # safetensors raises its own kind
        raise CorruptFileError(f"{path} is damaged: {error}.", COPY_AGAIN) from None

"""Writes what a run made: an attached folder, an adapter or a control, with the run's numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from engram.checkpoints.attach.own_files import is_checkpoint_file, own_files
from engram.checkpoints.read.attached_files import (
    CARD_FILE,
    HELD_OUT_FILE,
    TRAINING_FILE,
    TRAINING_FILES,
    TRAINING_LOG_FILE,
)
from engram.errors import EngramError
from engram.storage import folders
from engram.storage.files import write_json
from engram.storage.json_files import TEXT, read_json
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.staging import discard
from engram.training.dense_control import Dense, own_control_files
from engram.training.memory_folder import Origin, write_adapter, write_attached
from engram.training.run_folder import RunFolder, losses_as_json
from engram.training.shards import gather_tables
from engram.training.trained import Trained
from engram.training.trained_model import TrainedModel
from engram.training.training_card import training_card


def write_output(
    place: RunFolder,
    result: Trained,
    trained: TrainedModel,
    origin: Origin,
    command: Sequence[str] | None,
    *,
    adapter: bool,
    link: bool,
    overwrite: bool,
) -> Trained:
    """Write the output, whole or not at all, and remove the run's folder; a collective.

    Args:
        place: The run's folder.
        result: Its numbers.
        trained: The model, finished.
        origin: The start of the run.
        command: The command to state in the card.
        adapter: Write the memory alone.
        link: Hard-link the base's weight files.
        overwrite: Replace a folder that attaching or training wrote.

    Returns:
        The numbers, with the folder.
    """
    result = result.written_to(place.output)
    opened = origin.opened
    card = training_card(
        origin.name,
        origin.hub_id,
        opened.stored_config,
        opened.addresses,
        result.to_dict(),
        command,
        adapter=adapter,
    )
    if place.rank:
        _write(None, place, trained, origin, card, adapter=adapter, link=link)
    else:
        with folders.new_folder(place.output, own_result_files, overwrite) as new:
            _write(new, place, trained, origin, card, adapter=adapter, link=link)
            _write_numbers(new, result)
    with place.first_does() as is_first:
        if is_first and not result.options.keep_checkpoints:
            discard(place.folder)
    return result


def own_result_files(folder: Path) -> set[str] | None:
    """Name what attaching or training wrote into a folder; None when it is not such a one.

    Of a model that was written whole the run's numbers state the files.
    """
    found = own_control_files(folder) or own_files(folder)
    if found is not None or not (folder / TRAINING_FILE).is_file():
        return found
    try:
        stated = read_json(folder / TRAINING_FILE, {"files": [TEXT]})["files"]
    except EngramError:
        return None
    own = {name for name in stated if is_checkpoint_file(name)}
    return {INDEX_FILE, *own, *TRAINING_FILES}


def _write(
    new: Path | None,
    place: RunFolder,
    trained: TrainedModel,
    origin: Origin,
    card: str,
    *,
    adapter: bool,
    link: bool,
) -> None:
    contents = {} if trained.memory is None else trained.memory.contents()
    if isinstance(trained.control, Dense):
        if new is not None:
            trained.control.write_into(new, base=place.model)
            (new / CARD_FILE).write_text(card, encoding="utf-8")
    elif trained.changes_base or origin.adapter is None:
        if place.ranks > 1:
            gather_tables(trained.model)
        if new is not None:
            _write_whole(new, trained, origin, card)
    elif adapter:
        write_adapter(new, origin, contents, card)
    else:
        write_attached(new, origin, contents, card, link=link)


def _write_whole(new: Path, trained: TrainedModel, origin: Origin, card: str) -> None:
    """Write all weights, as `save_pretrained` does, and the tokenizer beside them."""
    trained.model.save_pretrained(new)
    for name in origin.opened.base.sidecars:
        if (origin.folder / name).is_file() and not (new / name).exists():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin.folder / name, new / name)
    (new / CARD_FILE).write_text(card, encoding="utf-8")


def _write_numbers(new: Path, result: Trained) -> None:
    files = sorted(path.name for path in new.iterdir() if path.is_file())
    write_json(new / TRAINING_FILE, {**result.to_dict(), "files": files})
    before = losses_as_json(result.start)
    after = before if result.end is None else losses_as_json(result.end)
    numbers = result.documents.held_out.tolist()
    held_out = {"documents": numbers, "before": before, "after": after}
    (new / HELD_OUT_FILE).write_text(json.dumps(held_out), encoding="utf-8")
    lines = "".join(f"{json.dumps(record)}\n" for record in result.log)
    (new / TRAINING_LOG_FILE).write_text(lines, encoding="utf-8")

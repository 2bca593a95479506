"""`RunFolder`: the folder of a run beside its output, and the output at its end."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engram.checkpoints.attach.own_files import own_files
from engram.checkpoints.read.attached_files import (
    CARD_FILE,
    HELD_OUT_FILE,
    TRAINING_FILE,
    TRAINING_LOG_FILE,
)
from engram.errors import InputError, MissingFileError
from engram.storage import folders
from engram.storage.files import write_json
from engram.storage.json_files import COPY_AGAIN, OBJECT, read_json
from engram.storage.row_journal import Journal
from engram.training.checkpoint import checkpoints_in, step_of
from engram.training.dense_control import Dense, own_control_files
from engram.training.document_loss import DocumentLosses
from engram.training.memory_folder import Origin, write_adapter, write_attached
from engram.training.shards import gather_tables, wait_for_all
from engram.training.trained import Trained
from engram.training.trained_model import TrainedModel
from engram.training.training_card import training_card

_RUN, _BEFORE = "run.json", "held_out_before.json"
_OWN = re.compile(r"run\.json|held_out_before\.json|start|tables|runs|checkpoint-\d+|\..*\.part")
# Options that may differ when a run goes on.
_FREE = ("keep_checkpoints", "trainer", "save_every", "model", "steps", "tokens", "minutes")


class RunFolder:
    """The folder of a run: checkpoints and settings while it trains, the output at its end.

    Args:
        output: The folder to appear.
        rank: This process; the first one writes.
        ranks: Number of processes.

    Attributes:
        folder: The folder beside the output with what the run needs while it trains.
        start: A folder in it, for a memory that is attached first.
        tables: A folder in it, for tables that are trained in files.
        rank: This process.
        ranks: Number of processes.
    """

    def __init__(self, output: Path, rank: int, ranks: int = 1) -> None:
        self.output, self.rank, self.ranks = output, rank, ranks
        self.folder = output.with_name(f"{output.name}.checkpoints")
        self.start, self.tables = self.folder / "start", self.folder / "tables"

    def latest(self, journal: Journal | None) -> Path | None:
        """Return the checkpoint to go on from; None if there is none.

        Args:
            journal: Journal of tables in files, whose last commit is of one checkpoint.
        """
        found = checkpoints_in(self.folder)
        if journal is not None:
            step = (journal.committed or {}).get("step")
            found = [path for path in found if step_of(path) == step]
        return found[-1] if found else None

    @contextmanager
    def first_does(self) -> Iterator[bool]:
        """Have the first process do a block of work before the others go on.

        Yields:
            Whether this process is the first.
        """
        yield self.rank == 0
        wait_for_all()

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """See that the folder is free, or that of the run that is to go on; a collective.

        Raises:
            InputError: There is an unfinished run, and it is neither resumed nor replaced; or
                something else is there.
            MissingFileError: There is no run to go on with.
        """
        with self.first_does() as is_first:
            if not is_first:
                return
            there = self.folder.is_dir() and any(self.folder.iterdir())
            if resume and not (self.folder / _RUN).is_file():
                raise MissingFileError(
                    f"{self.folder} has no run to go on with.",
                    "Start one: leave --resume out.",
                    path=str(self.folder),
                )
            if there and not resume:
                self._make_way(overwrite)

    def resumed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the run that goes on.

        Args:
            settings: Those that are asked for now.

        Raises:
            InputError: They differ in what the result depends on.
        """
        stated: dict[str, Any] = read_json(self.folder / _RUN, OBJECT, hint=COPY_AGAIN)
        asked = json.loads(json.dumps(settings))
        differing = [
            name for name in asked if name not in _FREE and stated.get(name) != asked[name]
        ]
        if differing:
            name = differing[0]
            raise InputError(
                f"{name} was {stated.get(name)!r} when the run was started, and is "
                f"{asked[name]!r} now.",
                "Resume with the same options and text, or start anew with --overwrite.",
                differing=differing,
            )
        return stated

    def begin(self, settings: Mapping[str, Any]) -> None:
        """State the settings of the run; a collective."""
        with self.first_does() as is_first:
            if is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.folder / _RUN, dict(settings))

    def losses_before(self, measure: Callable[[], DocumentLosses]) -> DocumentLosses:
        """Return the held-out losses before training, which are measured once; a collective."""
        path = self.folder / _BEFORE
        if not path.is_file():
            losses = measure()
            with self.first_does() as is_first:
                if is_first:
                    write_json(path, losses_as_json(losses))
            return losses
        found: dict[str, Any] = read_json(path, OBJECT, hint=COPY_AGAIN)
        return losses_from_json(found)

    def finish(
        self,
        result: Trained,
        trained: TrainedModel,
        origin: Origin,
        command: Sequence[str] | None,
        *,
        adapter: bool,
        link: bool,
        overwrite: bool,
    ) -> Trained:
        """Write the output, whole or not at all, and remove the checkpoints; a collective.

        Args:
            result: The run's numbers.
            trained: The model, finished.
            origin: The start of the run.
            command: The command to state in the card.
            adapter: Write the memory alone.
            link: Hard-link the base's weight files.
            overwrite: Replace an attached folder that is there.
        """
        result = result.written_to(self.output)
        opened = origin.opened
        card = training_card(
            origin.adapter["base"],
            opened.stored_config,
            opened.addresses,
            result.to_dict(),
            command,
            adapter=adapter,
        )
        if self.rank:
            self._write(None, trained, origin, card, adapter=adapter, link=link)
        else:
            with folders.new_folder(self.output, own_result_files, overwrite) as new:
                self._write(new, trained, origin, card, adapter=adapter, link=link)
                _write_numbers(new, result)
        with self.first_does() as is_first:
            if is_first and not result.options.keep_checkpoints:
                shutil.rmtree(self.folder)
        return result

    def _write(
        self,
        place: Path | None,
        trained: TrainedModel,
        origin: Origin,
        card: str,
        *,
        adapter: bool,
        link: bool,
    ) -> None:
        if isinstance(trained.control, Dense):
            if place is not None:
                trained.control.write_into(place, base=origin.folder)
                (place / CARD_FILE).write_text(card, encoding="utf-8")
            return
        contents = {} if trained.memory is None else trained.memory.contents()
        if trained.changes_base:
            if self.ranks > 1:
                gather_tables(trained.model)
            if place is not None:
                _write_whole(place, trained, origin, card)
        elif adapter:
            write_adapter(place, origin, contents, card)
        else:
            write_attached(place, origin, contents, card, link=link)

    def _make_way(self, overwrite: bool) -> None:
        others = [path.name for path in self.folder.iterdir() if not _OWN.fullmatch(path.name)]
        if others or not overwrite:
            also = f", and {others[0]}, which is not its own" if others else ""
            raise InputError(
                f"{self.folder} holds an unfinished run{also}.",
                "Go on with it: --resume. Or start anew: --overwrite removes it."
                if not others
                else "Move it away, or choose another output.",
                path=str(self.folder),
            )
        shutil.rmtree(self.folder)


def own_result_files(folder: Path) -> set[str] | None:
    """Name what attaching or training wrote into a folder; None when it is not such a one."""
    return own_control_files(folder) or own_files(folder)


def losses_as_json(losses: DocumentLosses) -> dict[str, Any]:
    """Return losses by document for JSON."""
    return {
        "nats": losses.nats.tolist(),
        "tokens": losses.tokens.tolist(),
        "bytes": losses.bytes.tolist(),
        "bytes_are_exact": losses.bytes_are_exact,
    }


def losses_from_json(found: Mapping[str, Any]) -> DocumentLosses:
    """Read what `losses_as_json` returned."""
    return DocumentLosses(
        np.array(found["nats"], np.float64),
        np.array(found["tokens"], np.int64),
        np.array(found["bytes"], np.int64),
        bool(found["bytes_are_exact"]),
    )


def _write_whole(place: Path, trained: TrainedModel, origin: Origin, card: str) -> None:
    """Write all weights, as `save_pretrained` does, and the tokenizer beside them."""
    trained.model.save_pretrained(place)
    for name in origin.opened.base.sidecars:
        if (origin.folder / name).is_file() and not (place / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin.folder / name, place / name)
    (place / CARD_FILE).write_text(card, encoding="utf-8")


def _write_numbers(place: Path, result: Trained) -> None:
    write_json(place / TRAINING_FILE, result.to_dict())
    numbers = [str(number) for number in result.documents.held_out.tolist()]
    before = losses_as_json(result.start)
    after = before if result.end is None else losses_as_json(result.end)
    held_out = {"documents": numbers, "before": before, "after": after}
    (place / HELD_OUT_FILE).write_text(json.dumps(held_out), encoding="utf-8")
    lines = "".join(f"{json.dumps(record)}\n" for record in result.log)
    (place / TRAINING_LOG_FILE).write_text(lines, encoding="utf-8")

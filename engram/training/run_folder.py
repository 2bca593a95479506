"""`RunFolder`: the folder of a run beside its output, and the output at its end."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engram.errors import InputError, MissingFileError
from engram.storage.files import write_json
from engram.storage.json_files import COPY_AGAIN, OBJECT, read_json
from engram.storage.row_journal import Journal
from engram.storage.staging import clean, clean_all, discard
from engram.training.checkpoint import checkpoint_at, checkpoints_in
from engram.training.document_loss import DocumentLosses
from engram.training.processes import wait_for_all

_RUN, _BEFORE, _LOCK = "run.json", "held_out_before.json", "lock"
_OWN = re.compile(
    r"run\.json|held_out_before\.json|lock|start|base|tables|runs|checkpoint-\d+|\..*\.part"
)
# Options that may differ when a run goes on.
_FREE = ("keep_checkpoints", "trainer", "save_every")
# Those that may be left out then.
_LENGTHS = ("steps", "tokens", "minutes")


class RunFolder:
    """The folder of a run: checkpoints and settings while it trains, the output at its end.

    Args:
        output: The folder to appear.
        rank: This process; the first one writes.
        ranks: Number of processes.

    Attributes:
        folder: The folder beside the output with what the run needs while it trains.
        start: A folder in it, for a memory that is attached first.
        base: A folder in it, for a base with random weights that is made first.
        tables: A folder in it, for tables that are trained in files.
        model: The model that is trained, as it was named; empty before the run begins.
        rank: This process.
        ranks: Number of processes.
    """

    def __init__(self, output: Path, rank: int, ranks: int = 1) -> None:
        self.output, self.rank, self.ranks = output, rank, ranks
        self.folder = output.with_name(f"{output.name}.checkpoints")
        # An unfinished run waits there until the one that replaces it begins.
        self._replaced = output.with_name(f"{output.name}.checkpoints.replaced")
        self.start, self.tables = self.folder / "start", self.folder / "tables"
        self.base = self.folder / "base"
        self.model = ""
        self._lock: int | None = None

    def latest(self, journal: Journal | None) -> Path | None:
        """Return the checkpoint to go on from; None if there is none.

        Args:
            journal: Journal of tables in files, whose last commit is of one checkpoint.

        Raises:
            MissingFileError: The checkpoint of the last commit is gone.
        """
        found = checkpoints_in(self.folder)
        if journal is None or journal.committed is None:
            return found[-1] if found and journal is None else None
        path = checkpoint_at(self.folder, journal.committed["step"])
        if path not in found:
            raise MissingFileError(
                f"{path} is gone, which the tables in {self.tables} belong to.",
                "Put it back, or start anew with --overwrite.",
                path=str(path),
            )
        return path

    @contextmanager
    def first_does(self) -> Iterator[bool]:
        """Have the first process do a block of work before the others go on.

        Yields:
            Whether this process is the first.
        """
        yield self.rank == 0
        wait_for_all()

    @contextmanager
    def opened(self, *, resume: bool, overwrite: bool) -> Iterator[bool]:
        """Hold the folder of a new run, or of the one that is to go on; a collective.

        Nothing is kept of a run that ends before it begins; one that it was to replace stays.

        Yields:
            Whether a run goes on.

        Raises:
            InputError: There is an unfinished run, and it is neither resumed nor replaced; or
                another process is at work on it; or something else is there.
            MissingFileError: There is no run to resume.
        """
        try:
            with self.first_does() as is_first:
                if is_first:
                    self._open(resume, overwrite)
            try:
                yield resume and self._has_begun()
            finally:
                if self.rank == 0 and self.folder.is_dir() and not self._has_begun():
                    discard(self.folder)
                    self._bring_back()
        finally:
            self._release()

    def _open(self, resume: bool, overwrite: bool) -> None:
        clean(self.folder)
        # Before anything is moved, since another command may be at work there.
        if (self.folder / _RUN).is_file():
            self._hold()
        self._bring_back()
        if (self.folder / _RUN).is_file():
            self._hold()
        if self.folder.is_dir():
            clean_all(self.folder)
        there = self.folder.is_dir() and any(self.folder.iterdir())
        if resume and not (self.folder / _RUN).is_file():
            raise MissingFileError(
                f"{self.folder} has no run to resume.",
                "Start one: leave --resume out.",
                path=str(self.folder),
            )
        if resume and self._has_begun():
            return
        if there:
            self._make_way(overwrite or not self._has_begun())
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _RUN, {})
        self._hold()

    def _bring_back(self) -> None:
        """Give an unfinished run its folder back, unless the one that replaces it has begun."""
        if not self._replaced.is_dir():
            return
        if (self.folder / _RUN).is_file():
            discard(self._replaced if self._has_begun() else self.folder)
        elif self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        if self._replaced.is_dir() and not self.folder.exists():
            self._replaced.rename(self.folder)

    def _hold(self) -> None:
        """Keep other commands from the folder, until this process ends or releases it."""
        self._release()
        lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError(
                f"Another process trains in {self.folder}.",
                "Wait until it ends, or choose another output.",
                path=str(self.folder),
            ) from None
        except OSError:  # a file system without locks
            os.close(lock)
            return
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _has_begun(self) -> bool:
        """Whether the run came to its first step."""
        path = self.folder / _RUN
        # A folder without this one is not a run's, and stays.
        return not path.is_file() or "steps" in read_json(path, OBJECT, hint=COPY_AGAIN)

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
            name
            for name in asked
            if name not in _FREE
            and stated.get(name) != asked[name]
            and not (name in _LENGTHS and asked[name] is None)
        ]
        if differing:
            name = differing[0]
            raise InputError(
                f"{name} was {stated.get(name)!r} when the run was started, and is "
                f"{asked[name]!r} now.",
                "Resume with the same options and text, or start anew: --overwrite alone.",
                differing=differing,
            )
        return stated

    def begin(self, settings: Mapping[str, Any]) -> None:
        """State the settings of the run; a collective."""
        self.model = str(settings["model"])
        with self.first_does() as is_first:
            if is_first:
                write_json(self.folder / _RUN, dict(settings))
                if self._replaced.is_dir():
                    discard(self._replaced)

    def losses_before(self, measure: Callable[[], DocumentLosses]) -> DocumentLosses:
        """Return the held-out losses before training, which are measured once; a collective."""
        path = self.folder / _BEFORE
        is_known = path.is_file()
        wait_for_all()
        if not is_known:
            losses = measure()
            with self.first_does() as is_first:
                if is_first:
                    write_json(path, losses_as_json(losses))
            return losses
        found: dict[str, Any] = read_json(path, OBJECT, hint=COPY_AGAIN)
        return losses_from_json(found)

    def _make_way(self, overwrite: bool) -> None:
        others = [path.name for path in self.folder.iterdir() if not _OWN.fullmatch(path.name)]
        if not (self.folder / _RUN).is_file():
            # Other programs have folders of such names, too.
            found = others or sorted(path.name for path in self.folder.iterdir())
            raise InputError(
                f"{self.folder} holds {found[0]} and no {_RUN}: it is not the folder of a run.",
                "Move it away, or choose another output.",
                path=str(self.folder),
            )
        if others or not overwrite:
            also = f", and {others[0]}, which is not its own" if others else ""
            raise InputError(
                f"{self.folder} holds an unfinished run{also}.",
                "Resume it: --resume. Or start anew: --overwrite removes it."
                if not others
                else "Move it away, or choose another output.",
                path=str(self.folder),
            )
        if self._has_begun():
            self.folder.rename(self._replaced)
        else:
            discard(self.folder)


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

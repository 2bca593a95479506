"""`Journal`: changes of rows in several files that become permanent together, or not at all.

A redo log. Changed rows wait in shadow files (`JournaledRows`). A commit sees these onto the
disk, with the numbers of the rows in them, and then renames a marker into place: from then on the
changes are permanent. Only afterwards are the rows copied to where they belong; a process that is
killed meanwhile leaves the marker, and `recover` copies them again. Without a marker, `recover`
throws the shadow files away: the last commit is as it was.

The journal lies in the folder `JOURNAL` inside the folder of the files whose rows it changes.
Several processes may share a folder, each with rows of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engram.errors import CorruptFileError, InputError
from engram.storage.file_names import is_inside
from engram.storage.journaled_rows import Extent, JournaledRows, copy_rows
from engram.storage.json_files import (
    COUNT,
    FILE_NAME,
    OBJECT,
    TEXT,
    Each,
    Kind,
    one_of,
    parse_json,
    read_json,
)
from engram.storage.row_file import Ids, RowFile
from engram.storage.staging import sync_path, telling_of

JOURNAL = "journal"
_LOCK, _MARKER, _COMMITTED, _NEW = "lock", "redo.json", "committed.json", "redo.json.new"
_SHADOW, _DIRTY = ".shadow", ".dirty"
_SCHEMA = "engram.journal/1"
_HEAD_BYTES = 2**20
_HINT = "Start again from a copy of the tables, in a new folder."
_NUMBERS = ("start_byte", "first_row", "count", "row_bytes")
_MARKER_SHAPE = {
    "schema": one_of(_SCHEMA),
    "payload": OBJECT,
    "parts": Each(COUNT, key=FILE_NAME),
}
_DIRTY_SHAPE = {
    "schema": one_of(_SCHEMA),
    "file": Kind("a path in the journal's folder", is_inside, TEXT),
    "head_crc32": COUNT,
    **dict.fromkeys(_NUMBERS, COUNT),
}


class Journal:
    """Journal of the changes of one process to rows of files in a folder.

    `commit` does all steps. Processes that share a folder do them one by one, and wait for each
    other after each: all `prepare`, one does `mark`, all `copy`, one does `finish`, all `forget`.

    Args:
        folder: The folder of the files. `recover` it first, in one process.
        part: Number of this process among those that share the folder.

    Attributes:
        committed: What the caller gave to the last commit; None before the first.

    Raises:
        InputError: An earlier journal there was not recovered, or a process recovers it just now.
        CorruptFileError: The journal is damaged or not one.
    """

    def __init__(self, folder: Path, part: int = 0) -> None:
        self.folder, self.part = folder.resolve(), part
        self.place = self.folder / JOURNAL
        self._entries: dict[str, JournaledRows] = {}
        if self.place.exists() and not self.place.is_dir():
            raise _damaged(self.place, "is not a folder, where a journal is to be")
        with telling_of(self.place, self.folder):
            self.place.mkdir(exist_ok=True)
            lock = _locked(self.place, fcntl.LOCK_SH)
        self._closing = weakref.finalize(self, os.close, lock)
        self._closing.atexit = False
        if (self.place / _MARKER).exists():
            raise _not_recovered(self.folder)
        self.committed = _last_commit(self.place)

    def rows(self, name: str, extent: Extent) -> JournaledRows:
        """Open rows for changes.

        Args:
            name: Name of the rows in the journal, which makes file names.
            extent: The rows; their file lies in the folder.

        Raises:
            InputError: The file lies elsewhere, or an earlier journal was not recovered.
            DoesNotFitError: The disk is full.
        """
        if not extent.path.resolve().is_relative_to(self.folder):
            raise InputError(
                f"{extent.path} is not in {self.folder}, whose journal is to hold its changes.",
                "Copy the file to the folder first.",
                path=str(extent.path),
                folder=str(self.folder),
            )
        try:
            opened = JournaledRows(extent, self.place / f"{name}.{self.part}{_SHADOW}")
        except FileExistsError:
            raise _not_recovered(self.folder) from None
        self._entries[f"{name}.{self.part}"] = opened
        return opened

    @property
    def dirty_rows(self) -> int:
        """Number of rows that have been changed here since the last commit."""
        return sum(len(entry.dirty) for entry in self._entries.values())

    def commit(self, payload: Mapping[str, Any], write: Callable[[], object] | None = None) -> None:
        """Make all changes permanent.

        Args:
            payload: What is to be known about this commit, such as the step; JSON.
            write: Writes what belongs to the commit and lies elsewhere; when it raises, nothing
                has been committed.

        Raises:
            DoesNotFitError: The disk is full. Either nothing has been committed, and the changes
                are still there; or all has, and `recover` will copy the rows once there is room.
        """
        try:
            self.prepare()
            if write is not None:
                write()
            self.mark(payload)
        except BaseException:
            if not (self.place / _MARKER).exists():
                self._let_write(True)
            raise
        self.copy()
        self.finish()
        self.forget()

    def prepare(self) -> None:
        """See the changes onto the disk; until `forget` no row may be changed."""
        if (self.place / _MARKER).exists():
            raise _not_recovered(self.folder)
        self._let_write(False)
        with telling_of(self.place, self.folder):
            for name, entry in self._entries.items():
                path = self.place / (name + _DIRTY)
                if len(entry.dirty):
                    entry.sync()
                    _write_synced(path, self._describe(entry), entry.dirty.by_slot().data)
                else:
                    path.unlink(missing_ok=True)
            sync_path(self.place)

    def mark(self, payload: Mapping[str, Any]) -> None:
        """Make the changes of all processes permanent: the commit itself."""
        parts = {
            path.name: zlib.crc32(path.read_bytes())
            for path in sorted(self.place.glob(f"*{_DIRTY}"))
        }
        marker: dict[str, Any] = {"schema": _SCHEMA, "payload": dict(payload), "parts": parts}
        with telling_of(self.place, self.folder):
            _write_synced(self.place / _NEW, json.dumps(marker).encode())
            sync_path(self.folder)
            (self.place / _NEW).replace(self.place / _MARKER)
            sync_path(self.place)
        self.committed = marker["payload"]

    def copy(self) -> None:
        """Copy the changed rows of this process to where they belong."""
        for entry in self._entries.values():
            entry.copy()

    def finish(self) -> None:
        """Remove the marker, when all rows are where they belong."""
        _finish(self.place)

    def forget(self) -> None:
        """Empty the shadow files, when the marker is gone; rows may be changed again."""
        for entry in self._entries.values():
            entry.forget()

    def close(self) -> None:
        """Close all files. Changes since the last commit are lost, as when the process ends."""
        for entry in self._entries.values():
            entry.close()
        self._closing()

    def _let_write(self, is_writable: bool) -> None:
        for entry in self._entries.values():
            entry.is_writable = is_writable

    def _describe(self, entry: JournaledRows) -> bytes:
        extent = entry.extent
        described = {
            "schema": _SCHEMA,
            "file": extent.path.resolve().relative_to(self.folder).as_posix(),
            "head_crc32": _head_crc32(extent),
            **{key: getattr(extent, key) for key in _NUMBERS},
        }
        return json.dumps(described).encode() + b"\n"


def recover(folder: Path) -> dict[str, Any] | None:
    """Bring the files of a folder to the state of the last commit, after whatever ended a process.

    Args:
        folder: The folder.

    Returns:
        What was given to the last commit; None when there was none.

    Raises:
        InputError: Another process uses the journal.
        CorruptFileError: The journal is damaged, or not one of these files; nothing was changed.
        DoesNotFitError: The disk is full; recover it again when there is room.
    """
    folder = folder.resolve()
    place = folder / JOURNAL
    if not place.is_dir():
        return None
    with telling_of(place, folder):
        lock = _locked(place, fcntl.LOCK_EX)
        try:
            if (place / _MARKER).exists():
                # All parts are checked before any row is changed.
                for extent, shadow, dirty in list(_marked_parts(folder)):
                    copy_rows(extent, extent.open(), shadow, dirty)
                _finish(place)
            payload = _last_commit(place)
            for path in [*place.glob(f"*{_SHADOW}"), *place.glob(f"*{_DIRTY}"), place / _NEW]:
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)
    return payload


def _marked_parts(folder: Path) -> Iterator[tuple[Extent, RowFile, Ids]]:
    """Yield what a marker makes permanent: the rows' place, the shadow file, their numbers."""
    place = folder / JOURNAL
    marker = read_json(place / _MARKER, _MARKER_SHAPE, hint=_HINT)
    for name, crc32 in marker["parts"].items():
        path = place / name
        content = path.read_bytes() if path.is_file() else b""
        if zlib.crc32(content) != crc32:
            raise _damaged(path, "is missing or was changed after the commit that it belongs to")
        head, _, numbers = content.partition(b"\n")
        stated = parse_json(head, str(path), _DIRTY_SHAPE, hint=_HINT)
        extent = Extent(folder / stated["file"], *(stated[key] for key in _NUMBERS))
        if len(numbers) % 8 or len(numbers) > extent.count * 8:
            raise _damaged(path, f"has {len(numbers)} bytes of numbers of {extent.count} rows")
        with _told_of(extent.path):
            extent.open()
            if _head_crc32(extent) != stated["head_crc32"]:
                raise _damaged(extent.path, f"is not the file whose rows {path} changes")
        shadow = RowFile(path.with_suffix(_SHADOW), 0, extent.count, extent.row_bytes)
        dirty = np.frombuffer(numbers, dtype="<i8")
        if len(dirty) and not 0 <= dirty.min() <= dirty.max() < extent.count:
            raise _damaged(path, f"has numbers that are not those of {extent.count} rows")
        yield extent, shadow, dirty


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Raise the error of a journal for a file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None


def _finish(place: Path) -> None:
    (place / _MARKER).replace(place / _COMMITTED)
    sync_path(place)


def _last_commit(place: Path) -> dict[str, Any] | None:
    if not (place / _COMMITTED).exists():
        return None
    payload: dict[str, Any] = read_json(place / _COMMITTED, _MARKER_SHAPE, hint=_HINT)["payload"]
    return payload


def _locked(place: Path, how: int) -> int:
    """Open the lock of a journal; its descriptor holds it."""
    lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"Another process uses the tables in {place.parent}.",
            "Wait until it ends, or end it.",
            folder=str(place.parent),
        ) from None
    except OSError:  # a file system without locks
        return lock
    return lock


def _write_synced(path: Path, *content: Any) -> None:
    with path.open("wb") as file:
        for part in content:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _head_crc32(extent: Extent) -> int:
    """Checksum of how a file begins before its rows: of a safetensors header, say."""
    with extent.path.open("rb") as file:
        return zlib.crc32(file.read(min(extent.start_byte, _HEAD_BYTES)))


def _damaged(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(f"{path} {what}.", _HINT, path=str(path))


def _not_recovered(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds changes of a process that ended before its commit did, or of another one.",
        "Call engram.storage.row_journal.recover(folder) before opening it.",
        folder=str(folder),
    )

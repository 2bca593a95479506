"""`JournaledRows`: rows of a file, with those changed since the last commit in a file beside it.

Changed rows go to a shadow file, one after the other in the order in which they were changed for
the first time, and are read from there. It is written in sequence: with rows scattered as in the
table, each would cost a page, and a piece of the file that the file system has to free one by one.
See `engram.storage.row_journal`.

Shapes: n rows of as many bytes each.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engram.errors import InputError
from engram.storage.dirty_rows import DirtyRows
from engram.storage.row_file import Ids, RowFile, Rows
from engram.storage.staging import telling_of

_COPIED_BYTES, _COPIED_ROWS = 2**24, 2**14


@dataclass(frozen=True)
class Extent:
    """Consecutive rows of a file.

    Attributes:
        path: The file.
        start_byte: Byte of the file at which row 0 starts.
        first_row: The first of these rows.
        count: Number of these rows.
        row_bytes: Size of a row.
    """

    path: Path
    start_byte: int
    first_row: int
    count: int
    row_bytes: int

    @property
    def first_byte(self) -> int:
        """Byte of the file at which the first of these rows starts."""
        return self.start_byte + self.first_row * self.row_bytes

    def open(self) -> RowFile:
        """Open the rows for reading; see `RowFile` for errors."""
        return RowFile(self.path, self.first_byte, self.count, self.row_bytes)


class JournaledRows:
    """Rows that are read and written, and committed together with others of a `Journal`.

    One thread at a time may write; `ask` may be called from others.

    Args:
        extent: The rows.
        shadow: Path of the shadow file, which must not be there.

    Attributes:
        main: The rows as of the last commit.
        dirty: Rows that have been changed since then.

    Raises:
        FileExistsError: There is a shadow file.
        DoesNotFitError: The disk is full, or a file may not be that large.
    """

    def __init__(self, extent: Extent, shadow: Path) -> None:
        self.extent, self.row_bytes, self.count = extent, extent.row_bytes, extent.count
        self.main = extent.open()
        self.dirty = DirtyRows(self.count)
        self.is_writable = True
        with telling_of(shadow, shadow):
            self._fd = os.open(shadow, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._closing = weakref.finalize(self, os.close, self._fd)
            self._closing.atexit = False
            os.ftruncate(self._fd, self.count * self.row_bytes)
            self._shadow = RowFile(shadow, 0, self.count, self.row_bytes)

    def read(self, ids: Ids, out: Rows) -> None:
        """Read rows, changed or not. See `RowFile.read`."""
        self.main.check_ids(ids)
        changed = self.dirty.among(ids)
        if not changed.any():
            self.main.read(ids, out)
        elif changed.all():
            self._shadow.read(self.dirty.slots(ids), out)
        else:
            slots = self.dirty.slots(ids[changed])
            parts = ((self.main, ids[~changed], ~changed), (self._shadow, slots, changed))
            for file, numbers, own in parts:
                rows = np.empty((len(numbers), self.row_bytes), dtype=np.uint8)
                file.read(numbers, rows)
                out[own] = rows

    def ask(self, ids: Ids) -> None:
        """Have the kernel start reading rows that are not in memory. See `RowFile.ask`."""
        changed = self.dirty.among(ids)
        self.main.ask(ids[~changed])
        if changed.any():
            self._shadow.ask(self.dirty.slots(ids[changed]))

    def write(self, ids: Ids, rows: Rows) -> None:
        """Replace rows, until the next commit in the shadow file alone.

        Args:
            ids: Row numbers, distinct, in any order ``[n]``.
            rows: The new rows ``[n, row_bytes]``.

        Raises:
            IndexError: A number is not in 0..count - 1.
            InputError: A commit has begun and not ended.
            DoesNotFitError: The disk is full; some rows may have been replaced.
        """
        self.main.check_ids(ids)
        if not self.is_writable:
            raise InputError(
                f"Rows of {self.extent.path} cannot be changed while a commit is being written.",
                "End the commit first, or open the journal again.",
                path=str(self.extent.path),
            )
        changed = self.dirty.among(ids)
        with telling_of(self._shadow.path, self.extent.path):
            _write_rows(self._fd, 0, self.dirty.slots(ids[changed]), rows[changed])
            new, rows = ids[~changed], rows[~changed]
            order = np.argsort(new)
            slots = np.arange(len(self.dirty), len(self.dirty) + len(new))
            _write_rows(self._fd, 0, slots, rows[order])
        self.dirty.add(new[order])

    def sync(self) -> None:
        """See the changed rows onto the disk, into the shadow file."""
        os.fdatasync(self._fd)

    def copy(self) -> None:
        """Copy the changed rows to where they belong, and see them onto the disk."""
        copy_rows(self.extent, self.main, self._shadow, self.dirty.by_slot())

    def forget(self) -> None:
        """Empty the shadow file."""
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.count * self.row_bytes)
        self.dirty.clear()
        self.is_writable = True

    def close(self) -> None:
        """Close the shadow file; the rows cannot be written to afterwards."""
        self._closing()
        self.is_writable = False


def copy_rows(extent: Extent, main: RowFile, shadow: RowFile, dirty: Ids) -> None:
    """Copy rows of a shadow file to where they belong, in order, and see them onto the disk.

    Args:
        extent: The rows.
        main: The same rows, for reading.
        shadow: The shadow file.
        dirty: Numbers of the rows in the shadow file.

    Raises:
        DoesNotFitError: The disk is full.
    """
    at_once = max(1, min(_COPIED_ROWS, _COPIED_BYTES // extent.row_bytes))
    rows = np.empty((at_once, extent.row_bytes), dtype=np.uint8)
    slots = np.argsort(dirty)
    with telling_of(extent.path, extent.path):
        target = os.open(extent.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for first in range(0, len(slots), at_once):
                some = slots[first : first + at_once]
                # A page of which only a part is replaced has to be read.
                main.ask(dirty[some])
                shadow.read(some, rows[: len(some)])
                _write_rows(target, extent.first_byte, dirty[some], rows[: len(some)])
            os.fdatasync(target)
        finally:
            os.close(target)


def _write_rows(file: int, first_byte: int, ids: Ids, rows: Rows) -> None:
    """Write rows, neighbours at once.

    Args:
        file: The open file.
        first_byte: Byte of the file at which row 0 starts.
        ids: Row numbers, distinct ``[n]``.
        rows: The rows ``[n, row_bytes]``.
    """
    if not len(ids):
        return
    row_bytes, order = rows.shape[1], np.argsort(ids)
    ids, content = ids[order], rows[order].reshape(-1).data
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 2) != 1)
    offsets = (first_byte + ids[starts] * row_bytes).tolist()
    bounds = [*(starts * row_bytes).tolist(), len(content)]
    for offset, start, stop in zip(offsets, bounds, bounds[1:], strict=False):
        while start < stop:
            # Fewer bytes are written where the disk is nearly full; the next try raises.
            written = os.pwrite(file, content[start:stop], offset)
            start, offset = start + written, offset + written

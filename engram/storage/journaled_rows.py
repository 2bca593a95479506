"""`JournaledRows`: rows of a file, with those changed since the last commit in a file beside it.

Changed rows go to a shadow file: a sparse one with a place for every row. A bitmap tells which rows
are read from there. See `engram.storage.row_journal`.

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
            self._shadow.read(ids, out)
        else:
            for file, own in ((self.main, ~changed), (self._shadow, changed)):
                rows = np.empty((int(own.sum()), self.row_bytes), dtype=np.uint8)
                file.read(ids[own], rows)
                out[own] = rows

    def ask(self, ids: Ids) -> None:
        """Have the kernel start reading rows that are not in memory. See `RowFile.ask`."""
        changed = self.dirty.among(ids)
        self.main.ask(ids[~changed])
        if changed.any():
            self._shadow.ask(ids[changed])

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
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
        with telling_of(self._shadow.path, self.extent.path):
            _write_rows(self._fd, 0, ids, rows)
        self.dirty.add(ids)

    def sync(self) -> None:
        """See the changed rows onto the disk, into the shadow file."""
        os.fdatasync(self._fd)

    def copy(self) -> None:
        """Copy the changed rows to where they belong, and see them onto the disk."""
        copy_rows(self.extent, self.main, self._shadow, self.dirty)

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


def copy_rows(extent: Extent, main: RowFile, shadow: RowFile, dirty: DirtyRows) -> None:
    """Copy rows of a shadow file to where they belong, in order, and see them onto the disk.

    Args:
        extent: The rows.
        main: The same rows, for reading.
        shadow: The shadow file.
        dirty: Rows to be copied.

    Raises:
        DoesNotFitError: The disk is full.
    """
    at_once = max(1, min(_COPIED_ROWS, _COPIED_BYTES // extent.row_bytes))
    rows = np.empty((at_once, extent.row_bytes), dtype=np.uint8)
    with telling_of(extent.path, extent.path):
        target = os.open(extent.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for ids in dirty.batches(at_once):
                # A page of which only a part is replaced has to be read.
                main.ask(ids)
                shadow.read(ids, rows[: len(ids)])
                _write_rows(target, extent.first_byte, ids, rows[: len(ids)])
            os.fdatasync(target)
        finally:
            os.close(target)


def _write_rows(file: int, first_byte: int, ids: Ids, rows: Rows) -> None:
    """Write rows, neighbours at once.

    Args:
        file: The open file.
        first_byte: Byte of the file at which row 0 starts.
        ids: Row numbers, ascending and distinct ``[n]``.
        rows: The rows ``[n, row_bytes]``, contiguous.
    """
    if not len(ids):
        return
    row_bytes = rows.shape[1]
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 2) != 1)
    offsets = (first_byte + ids[starts] * row_bytes).tolist()
    bounds = [*(starts * row_bytes).tolist(), rows.size]
    content = rows.reshape(-1).data
    for offset, start, stop in zip(offsets, bounds, bounds[1:], strict=False):
        while start < stop:
            # Fewer bytes are written where the disk is nearly full; the next try raises.
            written = os.pwrite(file, content[start:stop], offset)
            start, offset = start + written, offset + written

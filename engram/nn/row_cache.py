"""`RowCache`: keeps the rows of a file that are read repeatedly in memory.

The page cache keeps whole pages, and most of their rows are not needed. This cache keeps single
rows, for tables larger than memory.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from engram.storage.row_file import Ids, RowFile, Rows

_WAYS = 8
# A new row enters as if it had last been read this many cache fills ago, so that rows that are read
# once (most of them) do not evict those that are read again.
_NEW_ROW_AGE_FILLS = 4


class RowCache:
    """A set-associative cache in front of a `RowFile`.

    A row may be in any of the 8 lines of its set; the least recently read row is evicted. Results
    never depend on the cache. Threads share the cache, and a copy is the same object; a forked or
    unpickled cache starts empty.

    Args:
        file: The rows.
        lines: Number of rows to keep, rounded down to whole sets.
    """

    def __init__(self, file: RowFile, lines: int) -> None:
        self.file, self.lines, self.row_bytes = file, lines, file.row_bytes
        self._ways = min(_WAYS, lines)
        self._clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return RowCache, (self.file, self.lines)

    def __deepcopy__(self, memo: dict[int, Any]) -> RowCache:
        return self

    def read(self, ids: Ids, out: Rows) -> None:
        """Read rows. See `RowFile.read`."""
        self.file.check_ids(ids)
        if os.getpid() != self._process:
            self._clear()  # a thread of the parent may have held the lock
        distinct, inverse = np.unique(ids, return_inverse=True)
        rows = np.empty((len(distinct), self.row_bytes), dtype=np.uint8)
        with self._lock:
            line, found = self._find(distinct)
            rows[found] = self._rows[line[found]]
            self._last_read[line[found]] = self._clock
        missing = distinct[~found]
        if len(missing):
            fetched = np.empty((len(missing), self.row_bytes), dtype=np.uint8)
            self.file.read(missing, fetched)
            rows[~found] = fetched
            with self._lock:
                self._keep(missing, fetched)
        np.take(rows, inverse, axis=0, out=out, mode="clip")

    def ask(self, ids: Ids) -> None:
        """Have the kernel start reading rows that are not cached. See `RowFile.ask`."""
        if os.getpid() != self._process:
            self._clear()
        with self._lock:
            _, found = self._find(ids)
        self.file.ask(ids[~found])

    def _find(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the line of each row, and whether the row is in it."""
        first = ids % self._sets * self._ways
        match = self._ids[first[:, None] + np.arange(self._ways)] == ids[:, None]
        return first + match.argmax(axis=1), match.any(axis=1)

    def _keep(self, ids: Ids, rows: Rows) -> None:
        """Put distinct rows into lines, at most as many of one set as it has lines."""
        # Another thread may have added the same rows.
        new = ~self._find(ids)[1]
        ids, rows = ids[new], rows[new]
        sets = ids % self._sets
        order = np.argsort(sets, kind="stable")
        ids, rows, sets = ids[order], rows[order], sets[order]
        rank = np.arange(len(sets)) - np.searchsorted(sets, sets)  # among the new rows of its set
        fits = rank < self._ways
        ids, rows, sets, rank = ids[fits], rows[fits], sets[fits], rank[fits]
        lines = sets[:, None] * self._ways + np.arange(self._ways)
        oldest = np.argsort(self._last_read[lines], axis=1, kind="stable")
        line = lines[np.arange(len(lines)), oldest[np.arange(len(lines)), rank]]
        self._clock += len(new)
        self._ids[line], self._rows[line] = ids, rows
        self._last_read[line] = self._clock - _NEW_ROW_AGE_FILLS * self.lines

    def _clear(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sets = self.lines // self._ways
        used = self._sets * self._ways
        self._ids = np.full(used, -1, dtype=np.int64)
        self._rows = np.empty((used, self.row_bytes), dtype=np.uint8)
        self._last_read = np.full(used, np.iinfo(np.int64).min, dtype=np.int64)
        # The cache measures time in rows that were not in it.
        self._clock = 0

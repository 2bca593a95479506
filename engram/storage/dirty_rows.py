"""`DirtyRows`: which rows of a file have been changed, and in which order for the first time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engram.storage.row_file import Ids


class DirtyRows:
    """A set of rows, each with a slot: its number in the order in which they were added.

    One bit for each row of the file tells whether it is in the set. The slots are in a few sorted
    arrays of growing length, 16 bytes for each row of the set.

    Args:
        count: Number of rows of the file.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._bits = np.zeros(-(-count // 8), dtype=np.uint8)
        # Rows, ascending, with their slots. No row is in two of them; each is longer than the next.
        self._runs: list[tuple[Ids, Ids]] = []
        self._used = 0

    def __len__(self) -> int:
        """Number of rows in it."""
        return self._used

    def among(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Tell which of some rows are in it, bool ``[n]``."""
        found: npt.NDArray[np.bool_] = (self._bits[ids >> 3] & _bit_of(ids)) != 0
        return found

    def slots(self, ids: Ids) -> Ids:
        """Return the slots of rows that are in it, int64 ``[n]``."""
        slots = np.empty(len(ids), dtype=np.int64)
        for rows, their in self._runs:
            place = np.searchsorted(rows, ids)
            place[place == len(rows)] = 0
            found = rows[place] == ids
            slots[found] = their[place[found]]
        return slots

    def add(self, ids: Ids) -> None:
        """Add rows that are not in it, ascending ``[n]``; they get the next slots in order."""
        if not len(ids):
            return
        np.bitwise_or.at(self._bits, ids >> 3, _bit_of(ids))
        self._runs.append((ids, np.arange(self._used, self._used + len(ids))))
        self._used += len(ids)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (rows, slots), (more, theirs) = self._runs[-2:]
            every, every_slot = np.concatenate([rows, more]), np.concatenate([slots, theirs])
            order = np.argsort(every, kind="stable")
            self._runs[-2:] = [(every[order], every_slot[order])]

    def by_slot(self) -> Ids:
        """Return its rows in the order of their slots, int64."""
        ids = np.empty(self._used, dtype=np.int64)
        for rows, slots in self._runs:
            ids[slots] = rows
        return ids

    def clear(self) -> None:
        """Remove all rows."""
        self._bits[:] = 0
        self._runs.clear()
        self._used = 0


def _bit_of(ids: Ids) -> npt.NDArray[np.uint8]:
    """Return the bit of each row in its byte, uint8 ``[n]``."""
    return np.left_shift(np.uint8(1), (ids & 7).astype(np.uint8))

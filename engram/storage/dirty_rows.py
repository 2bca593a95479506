"""`DirtyRows`: which rows of a file have been changed, one bit for each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engram.storage.row_file import Ids

# Bytes of the bitmap that are searched at a time: their row numbers take 64 times as many.
_SEARCHED_BYTES = 2**17


class DirtyRows:
    """A bitmap of rows.

    Args:
        count: Number of rows.
        bits: The bitmap, uint8 ``[ceil(count / 8)]``, low bits first; None for no row.
    """

    def __init__(self, count: int, bits: npt.NDArray[np.uint8] | None = None) -> None:
        self.count = count
        self.bits = np.zeros(-(-count // 8), dtype=np.uint8) if bits is None else bits

    def __len__(self) -> int:
        """Number of rows in it."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def among(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Tell which of some rows are in it, bool ``[n]``."""
        found: npt.NDArray[np.bool_] = (self.bits[ids >> 3] & _bit_of(ids)) != 0
        return found

    def add(self, ids: Ids) -> None:
        """Add rows ``[n]``."""
        np.bitwise_or.at(self.bits, ids >> 3, _bit_of(ids))

    def clear(self) -> None:
        """Remove all rows."""
        self.bits[:] = 0

    def batches(self, rows: int) -> Iterator[Ids]:
        """Yield the row numbers in it, ascending, at most `rows` at a time."""
        for first in range(0, len(self.bits), _SEARCHED_BYTES):
            part = self.bits[first : first + _SEARCHED_BYTES]
            if not part.any():
                continue
            found = np.flatnonzero(np.unpackbits(part, bitorder="little")) + first * 8
            for start in range(0, len(found), rows):
                yield found[start : start + rows]


def _bit_of(ids: Ids) -> npt.NDArray[np.uint8]:
    """Return the bit of each row in its byte, uint8 ``[n]``."""
    return np.left_shift(np.uint8(1), (ids & 7).astype(np.uint8))

"""`RowFile`: rows of fixed size inside a file, read in place.

The file is mapped, never loaded as a whole; the kernel's page cache keeps rows in memory. Touching
a row that is not in the page cache costs a round trip to the disk. So rows that may not be there
are requested first, many at a time, and read later.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from engram.errors import CorruptFileError, DoesNotFitError, InputError, MissingFileError
from engram.threads import kept_threads, usable_cores

# Sample of each block to check for presence in the page cache: small (a check costs as much as
# copying a hundred rows) as long as blocks are read at the speed of memory.
_BLOCK_ROWS = 8192
_SAMPLE_ROWS, _SMALL_SAMPLE_ROWS = 8, 2
_WARM_SECONDS_PER_ROW = 1e-6
# Rows that are requested before waiting for the first of them.
_AHEAD_ROWS = 512
# From this many rows on, a second core shares the copying.
_ROWS_TO_SHARE = 2048
_COPIED_BYTES = 2**24
# Lets a file larger than memory be mapped privately; Python names it from 3.13 on.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
# On systems other than Linux, which lack these, the map is read without advice.
_CAN_ASK = hasattr(os, "posix_fadvise")
_CAN_SAMPLE = hasattr(os, "RWF_NOWAIT")

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint8]


class RowFile:
    """Consecutive rows of equal size in a file.

    The file is opened once, for reading. Any number of threads may read; a fork shares the open
    file, a copy is the same object, and pickling opens the file again where it is unpickled.

    Args:
        path: The file. Replacing it by a new file of the same name does not change the rows read
            here; it must not be truncated while it is open.
        start_byte: Byte of the file at which the first row starts.
        rows: Number of rows.
        row_bytes: Size of a row.

    Raises:
        MissingFileError: The file is not there or may not be read.
        CorruptFileError: The file ends before the last row does.
        DoesNotFitError: The process may not map that much (``ulimit -v``).
    """

    def __init__(self, path: str | Path, start_byte: int, rows: int, row_bytes: int) -> None:
        if start_byte < 0 or rows < 1 or row_bytes < 1:
            raise InputError(
                f"rows must be >= 1, row_bytes >= 1 and start_byte >= 0, got {rows}, {row_bytes} "
                f"and {start_byte}.",
                start_byte=start_byte,
                rows=rows,
                row_bytes=row_bytes,
            )
        # A link may disappear, and unpickling must find the file from any working directory.
        self.path = Path(path).resolve()
        self.start_byte, self.rows, self.row_bytes = start_byte, rows, row_bytes
        if not self.path.is_file():
            raise MissingFileError(
                f"{self.path} is not a file.", "Check the path.", path=str(self.path)
            )
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise MissingFileError(
                f"{self.path} cannot be read: {error.strerror}.",
                "Check the path.",
                path=str(self.path),
            ) from None
        weakref.finalize(self, os.close, self._fd).atexit = False
        if _CAN_ASK:
            # Access is random: reading ahead would be wasted.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self._check_length()
        self._map = self._mapped(access=mmap.ACCESS_READ)
        self._was_warm = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RowFile, (self.path, self.start_byte, self.rows, self.row_bytes)

    def __deepcopy__(self, memo: dict[int, object]) -> RowFile:
        return self

    def read(self, ids: Ids, out: Rows) -> None:
        """Read rows.

        Args:
            ids: Row numbers, in any order, repeated or not ``[n]``.
            out: Output for the rows ``[n, row_bytes]``, contiguous.

        Raises:
            IndexError: A number is not in 0..rows - 1.
            CorruptFileError: The file was truncated after it was opened.
        """
        self.check_ids(ids)
        self._check_length()
        for first in range(0, len(ids), _BLOCK_ROWS):
            block, target = ids[first : first + _BLOCK_ROWS], out[first : first + _BLOCK_ROWS]
            if _CAN_ASK and not self._is_cached(block):
                self._ask_and_take(block, target)
                self._was_warm = False
                continue
            start = perf_counter()
            self._take(block, target)
            self._was_warm = perf_counter() - start < _WARM_SECONDS_PER_ROW * len(block)

    def ask(self, ids: Ids) -> None:
        """Have the kernel start reading rows that are not in the page cache, without waiting.

        Args:
            ids: Row numbers in 0..rows - 1 ``[n]``.
        """
        if not _CAN_ASK:
            return
        for offset in (self.start_byte + np.unique(ids) * self.row_bytes).tolist():
            os.posix_fadvise(self._fd, offset, self.row_bytes, os.POSIX_FADV_WILLNEED)

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows in order, some at a time ``[.., row_bytes]``, for copying."""
        step = max(1, _COPIED_BYTES // self.row_bytes)
        for first in range(0, self.rows, step):
            if _CAN_ASK:
                start = self.start_byte + first * self.row_bytes
                os.posix_fadvise(self._fd, start, step * self.row_bytes, os.POSIX_FADV_WILLNEED)
            yield self._map[first : first + step]

    def map_privately(self) -> Rows:
        """Map all rows ``[rows, row_bytes]`` anew; what is written there stays out of the file.

        Raises:
            DoesNotFitError: See the class.
        """
        return self._mapped(
            flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )

    def check_ids(self, ids: Ids) -> None:
        """Raise IndexError if a row number is not in 0..rows - 1."""
        # As unsigned, negative numbers are the largest.
        if len(ids) and int(ids.view(np.uint64).max()) >= self.rows:
            raise IndexError(f"row numbers must be in 0..{self.rows - 1}")

    def _ask_and_take(self, ids: Ids, out: Rows) -> None:
        """Read rows from the disk: request some while copying those requested before."""
        if len(ids) <= _AHEAD_ROWS:
            self.ask(ids)
            self._take(ids, out)
            return
        parts = [slice(first, first + _AHEAD_ROWS) for first in range(0, len(ids), _AHEAD_ROWS)]
        # When the disk's queue is full, a request blocks.
        with ThreadPoolExecutor(1) as asker:
            asked = [asker.submit(self.ask, ids[part]) for part in parts]
            for part, future in zip(parts, asked, strict=True):
                future.result()
                self._take(ids[part], out[part])

    def _take(self, ids: Ids, out: Rows) -> None:
        if len(ids) < _ROWS_TO_SHARE or usable_cores() < 2:
            self._take_part(ids, out)
            return
        half = len(ids) // 2
        # Each core waits for one row at a time, so two cores wait for two.
        other = kept_threads("engram-rows", 1).submit(self._take_part, ids[:half], out[:half])
        self._take_part(ids[half:], out[half:])
        other.result()

    def _take_part(self, ids: Ids, out: Rows) -> None:
        # Ids are checked already; "clip" writes to `out` directly, while "raise" buffers.
        np.take(self._map, ids, axis=0, out=out, mode="clip")

    def _is_cached(self, ids: Ids) -> bool:
        """Return whether a sample of rows is in the page cache, without waiting for the disk."""
        if not _CAN_SAMPLE:
            return False
        count = _SMALL_SAMPLE_ROWS if self._was_warm else _SAMPLE_ROWS
        some, byte = ids[:: -(-len(ids) // count)], [bytearray(1)]
        try:
            for offset in (self.start_byte + some * self.row_bytes).tolist():
                os.preadv(self._fd, byte, offset, os.RWF_NOWAIT)
        except OSError:  # reading would have to wait, or the file system does not support the check
            return False
        return True

    def _check_length(self) -> None:
        # Touching the map past the end of the file would kill the process.
        needed, there = self.start_byte + self.rows * self.row_bytes, os.fstat(self._fd).st_size
        if there < needed:
            raise CorruptFileError(
                f"{self.path} must have at least {needed} bytes for its table, got {there}.",
                "Copy or download it again.",
                path=str(self.path),
                file_bytes=there,
                needed_bytes=needed,
            )

    def _mapped(self, **how: int) -> Rows:
        skipped = self.start_byte % mmap.ALLOCATIONGRANULARITY
        table_bytes = self.rows * self.row_bytes
        try:
            mapped = mmap.mmap(
                self._fd, skipped + table_bytes, offset=self.start_byte - skipped, **how
            )
        except OSError as error:
            raise DoesNotFitError(
                f"{table_bytes} bytes of {self.path} cannot be mapped: {error.strerror}.",
                "Raise the limit of virtual memory: ulimit -v unlimited",
                path=str(self.path),
                table_bytes=table_bytes,
            ) from None
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        flat = np.frombuffer(mapped, dtype=np.uint8, count=table_bytes, offset=skipped)
        return flat.reshape(self.rows, self.row_bytes)

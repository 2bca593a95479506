"""`DirectFile`: writes a file past the system's memory, where the disk can take that."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from engram.storage.write_back import WriteBack

# Places, sizes and memory of direct writes are multiples of what disks write at once.
_BLOCK = 2**12
_BUFFER_BYTES = 2**25  # only what is used of it takes memory


class DirectFile:
    """A file that is written from one place on, mostly without copies in the system's memory.

    Copying there takes the processor longer than many disks take to write. The beginning and the
    end of what is written between two flushes, which fill no block, are written as usual; so is
    everything where direct writes are not to be had. Nothing is known to be on the disk before it
    is synced.

    Args:
        path: The file, which is there.
        at: Byte from which on it is written.
    """

    def __init__(self, path: Path, at: int) -> None:
        self._file = os.open(path, os.O_WRONLY)
        try:
            self._direct: int | None = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except (AttributeError, OSError):  # no such system, no such file system
            self._direct = None
        self._at, self._held = at, 0
        # New memory of a process begins with a page.
        memory = np.empty(_BUFFER_BYTES + _BLOCK, np.uint8)
        first = -memory.ctypes.data % _BLOCK
        self._buffer = memory[first : first + _BUFFER_BYTES]
        self._back = WriteBack(self._file, at)

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            os.close(self._file)
            if self._direct is not None:
                os.close(self._direct)

    @property
    def place(self) -> int:
        """Byte at which the next one is written."""
        return self._at + self._held

    def write(self, chunk: Any) -> None:
        """Write anything with the buffer protocol."""
        data = np.frombuffer(chunk, np.uint8)
        if self._direct is not None and not self._held and (head := -self._at % _BLOCK):
            self._write(data[:head])
            data = data[head:]
        while len(data):
            if self._direct is None and not self._held:
                self._write(data)
                return
            taken = min(len(data), _BUFFER_BYTES - self._held)
            self._buffer[self._held : self._held + taken] = data[:taken]
            self._held += taken
            data = data[taken:]
            if self._held == _BUFFER_BYTES:
                self._write_blocks()

    def skip(self, size_bytes: int) -> None:
        """Leave a hole."""
        self.flush()
        self._at += size_bytes
        self._back = WriteBack(self._file, self._at)

    def flush(self) -> None:
        """Have the system know every byte, and the file's size."""
        self._write_blocks()
        if os.fstat(self._file).st_size < self._at:
            os.ftruncate(self._file, self._at)  # which makes a hole at the end part of it

    def sync(self) -> None:
        """See everything onto the disk."""
        self.flush()
        os.fsync(self._file)

    def _write_blocks(self) -> None:
        """Write what is held: whole blocks directly, the rest as usual."""
        held: Any = self._buffer[: self._held]
        self._held = 0
        whole = len(held) // _BLOCK * _BLOCK
        while whole and self._direct is not None:
            try:
                written = os.pwrite(self._direct, held[:whole], self._at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(self._direct)  # the file system takes none, or larger blocks only
                self._direct = None
                break
            self._at += written
            held, whole = held[written:], whole - written
            if written % _BLOCK:
                break
        self._write(held)

    def _write(self, data: Any) -> None:
        while len(data):
            written = os.pwrite(self._file, data, self._at)
            self._at += written
            self._back.wrote(written)
            data = data[written:]

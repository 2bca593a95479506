"""Files whose sha256 is taken while they are written, so that they are not read again for it."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.storage.direct_file import DirectFile

# Flushed to disk in steps of this size, since a flush cannot be interrupted.
_SYNCED_BYTES = 2**28


class DigestedFiles:
    """New files of a folder.

    Args:
        folder: The folder.

    Attributes:
        digests: The sha256 of every file that is complete, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.digests: dict[str, str] = {}
        self._folder = folder

    @contextmanager
    def open(self, name: str) -> Iterator[io.RawIOBase]:
        """Open a file to be written from start to end; it is flushed to disk after the block."""
        path = self._folder / name
        path.open("wb").close()
        with ThreadPoolExecutor(1) as thread, DirectFile(path, 0) as file:
            digested = _DigestedFile(file, thread)
            yield digested
            file.sync()
        self.digests[name] = digested.digest.hexdigest()


class _DigestedFile(io.RawIOBase):
    """A file without a buffer: a digest of few large pieces is fastest."""

    def __init__(self, file: DirectFile, thread: ThreadPoolExecutor) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self._file, self._thread = file, thread
        self._synced = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`, and take its digest at the same time."""
        piece = memoryview(data)
        size_bytes = piece.nbytes
        if not size_bytes:
            return 0
        piece = piece.cast("B")
        digesting = self._thread.submit(self.digest.update, piece)
        try:
            self._file.write(piece)
        finally:
            digesting.result()
        if self._file.place - self._synced > _SYNCED_BYTES:
            self._file.sync()
            self._synced = self._file.place
        return size_bytes

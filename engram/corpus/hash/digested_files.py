"""Files whose sha256 is taken while they are written, so that they are not read again for it."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.corpus.tokens import token_shards
from engram.storage.write_back import WriteBack

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
    def open(self, name: str) -> Iterator[io.FileIO]:
        """Open a file to be written from start to end; it is flushed to disk after the block."""
        with ThreadPoolExecutor(1) as thread, _DigestedFile(self._folder / name, thread) as file:
            yield file
            token_shards.sync(file)
        self.digests[name] = file.digest.hexdigest()


class _DigestedFile(io.FileIO):
    """A file without a buffer: a digest of few large pieces is fastest."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor) -> None:
        super().__init__(path, "wb")
        self.digest = hashlib.sha256()
        self._thread = thread
        self._back = WriteBack(self.fileno())
        self._unsynced_bytes = 0

    def write(self, data: Any) -> int:
        """Write all of `data`, and take its digest at the same time."""
        left = memoryview(data)
        size_bytes = left.nbytes
        if not size_bytes:
            return 0
        left = left.cast("B")
        digesting = self._thread.submit(self.digest.update, left)
        while left:
            left = left[super().write(left) :]
        digesting.result()
        self._back.wrote(size_bytes)
        self._unsynced_bytes += size_bytes
        if self._unsynced_bytes > _SYNCED_BYTES:
            token_shards.sync(self)
            self._unsynced_bytes = 0
        return size_bytes

"""`WriteBack`: has the disk write a file while the rest of it is still being made."""

import os
from contextlib import suppress

# Few requests, and yet little left to wait for at the end.
_STRETCH_BYTES = 2**26


class WriteBack:
    """Starts the writing of what a file was given, stretch by stretch.

    The system would keep it in memory until much has gathered, or until it is synced. What is
    started is not awaited: the file still has to be synced. Without effect where the system has
    no such request.

    Args:
        descriptor: The file.
        at: Byte at which it goes on.
    """

    def __init__(self, descriptor: int, at: int = 0) -> None:
        self._descriptor, self._start, self._stop = descriptor, at, at

    def wrote(self, size_bytes: int) -> None:
        """Note bytes that have reached the system, after those before."""
        self._stop += size_bytes
        if self._stop - self._start < _STRETCH_BYTES:
            return
        if hasattr(os, "posix_fadvise"):
            # Asks that it leave memory, for which it is written; what is not on the disk yet stays.
            size, advice = self._stop - self._start, os.POSIX_FADV_DONTNEED
            with suppress(OSError):  # a file system that has no such request
                os.posix_fadvise(self._descriptor, self._start, size, advice)
        self._start = self._stop

"""Copies stretches of files, by the kernel where it can, and without the holes of sparse files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from engram.errors import CorruptFileError
from engram.storage.write_back import WriteBack

COPIED_BYTES = 2**26  # at a time, so that progress is told
_READ_BYTES = 2**24
# Errors of a system that cannot copy between these two files without the bytes passing through us.
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def copy_file(path: Path, target: Path, step: Callable[[int], object] = lambda _: None) -> None:
    """Copy the content of a file; holes in it stay holes, and the disk writes meanwhile.

    Args:
        path: The file that is read.
        target: The file that is written; what is there is lost.
        step: Told the bytes of every part that is done.

    Raises:
        OSError: One cannot be read or written, or there is no room.
    """
    with path.open("rb") as source, target.open("wb") as file:
        size, back = os.fstat(source.fileno()).st_size, WriteBack(file.fileno())

        def written(count: int) -> None:
            back.wrote(count)
            step(count)

        copy_stretch(path, 0, file.fileno(), 0, size, written)
        file.truncate(size)  # which makes a hole at the end part of it


def copy_stretch(
    path: Path,
    at: int,
    target: int,
    to: int,
    count: int,
    step: Callable[[int], object] = lambda _: None,
) -> None:
    """Copy a stretch of a file; holes in it stay holes, if the target has nothing there.

    Args:
        path: The file that is read.
        at: First byte of the stretch.
        target: Descriptor of the file that is written.
        to: Place of the first byte there.
        count: Bytes of the stretch.
        step: Told the bytes of every part that is done, those of holes among them.

    Raises:
        CorruptFileError: The file ends before.
        OSError: It cannot be read, or there is no room.
    """
    with path.open("rb") as source:
        done = 0
        while done < count:
            most = min(count - done, COPIED_BYTES)
            moved = _hole(source.fileno(), at + done, most)
            if not moved:
                moved = copy_some(source.fileno(), at + done, target, to + done, most)
            if not moved:
                raise CorruptFileError(
                    f"{path} ends at byte {at + done:,}, before byte {at + count:,}.",
                    "Copy or download it again.",
                    path=str(path),
                )
            done += moved
            step(moved)


def copy_some(source: int, at: int, target: int, to: int, most: int) -> int:
    """Copy at most so many bytes from one place to another, by the kernel where it can.

    Args:
        source: Descriptor of the file that is read.
        at: First byte that is read.
        target: Descriptor of the file that is written.
        to: Place of that byte there.
        most: Bytes to copy at most.

    Returns:
        The bytes that were copied; 0 at the end of the file.
    """
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, most, at, to)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    return os.pwrite(target, os.pread(source, min(most, _READ_BYTES), at), to)


def _hole(source: int, at: int, most: int) -> int:
    """Bytes of the hole that a file has at a place, at most so many; 0 where there are data."""
    if not hasattr(os, "SEEK_DATA"):
        return 0
    size = os.fstat(source).st_size
    try:
        data = os.lseek(source, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a file system that does not tell of holes
            return 0
        data = size  # nothing but a hole up to the end
    return max(0, min(data, size) - at if data - at < most else most)

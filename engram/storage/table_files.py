"""Files of one table each, as safetensors: new ones of zeros, and copies out of checkpoints.

The table starts at a multiple of a page, so that as few rows as possible lie on two pages.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from engram.errors import CorruptFileError
from engram.storage.copied_bytes import COPIED_BYTES, copy_some
from engram.storage.dtypes import DTYPES
from engram.storage.files import atomic_write
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.safetensors_writer import TensorStream, header_bytes
from engram.storage.staging import NEW, stage

_PAGE_BYTES = 4096


def make_zeros(path: Path, name: str, tag: str, shape: tuple[int, int]) -> None:
    """Make a file with a table of zeros, whose room on the disk is kept for it.

    A file that is there already stays, also when several processes do this at once.

    Args:
        path: The file.
        name: Name of the tensor.
        tag: Its dtype as safetensors names it.
        shape: Rows and values a row.

    Raises:
        DoesNotFitError: The disk is full, or a file may not be that large.
    """
    if path.exists():
        return
    with stage(path, path, sync=False) as place:
        with (place / NEW).open("wb") as file:
            header = _write_header(file, name, tag, shape)
            file.flush()
            size = header + shape[0] * shape[1] * DTYPES[tag].bits // 8
            if hasattr(os, "posix_fallocate"):
                # In one piece, where rows written one by one would scatter it over the disk.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(place / NEW, path)


def copy_table(
    table: TensorInfo, path: Path, name: str, step: Callable[[int], object] = lambda _: None
) -> None:
    """Copy a table out of a file into one of its own, without reading it into memory.

    Args:
        table: The table.
        path: The file to appear; one that is there is replaced.
        name: Name of the tensor in it.
        step: Told the bytes of every part copied.

    Raises:
        InputError: Something else than a file is there.
        DoesNotFitError: The disk is full.
    """
    with table.path.open("rb") as source, atomic_write(path) as file:
        to = _write_header(file, name, table.dtype, table.shape)
        file.flush()
        at = table.start
        while at < table.stop:
            most = min(table.stop - at, COPIED_BYTES)
            copied = copy_some(source.fileno(), at, file.fileno(), to, most)
            if not copied:
                raise CorruptFileError(
                    f"{table.path} ends at byte {at}, before its table does at {table.stop}.",
                    "Copy or download it again.",
                    path=str(table.path),
                )
            at, to = at + copied, to + copied
            step(copied)


def _write_header(file: IO[bytes], name: str, tag: str, shape: tuple[int, ...]) -> int:
    """Write the beginning of a file; returns its bytes."""
    tensor = TensorStream(name, tag, shape, ())
    return file.write(header_bytes([tensor], aligned_to=_PAGE_BYTES))

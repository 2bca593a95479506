"""Files that appear whole or not at all: written to a temporary sibling, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from engram.errors import InputError, MissingFileError

# What a system says when a file finds no room: a full disk, a quota, a limit on its size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Called with the units done so far and the total, None when it is not known.
Progress = Callable[[int, "int | None"], None]


def check_file(path: Path, overwrite: bool) -> None:
    """Check that a file of results may appear at a path.

    Args:
        path: Where it is to appear.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        InputError: A folder is there, or a file and `overwrite` is False.
        MissingFileError: There is no folder to put it into.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder.", "Give the path of a file.", path=str(path))
    if path.exists() and not overwrite:
        raise InputError(
            f"{path} is already there.", "Give --overwrite to replace it.", path=str(path)
        )
    if not path.parent.is_dir():
        raise MissingFileError(
            f"{path.parent}: no such folder.", "Make it first.", path=str(path.parent)
        )


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write to a temporary sibling of `path`, renamed to `path` when the block ends well.

    Args:
        path: The file to appear; one that is there is replaced. Nothing appears when the block
            raises.
        mode: "wb", or "w" for UTF-8 text.

    Yields:
        The open file.
    """
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with sibling.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sibling.replace(path)
    except BaseException as error:
        with suppress(OSError):
            sibling.unlink()
        if isinstance(error, OSError) and (
            error.filename == str(sibling) or error.errno in NO_ROOM
        ):
            error.filename = str(path)  # the name that the user knows
        raise


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, indented by two, whole or not at all."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")

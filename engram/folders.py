"""Folders that appear whole or not at all, and never take anything of the user's with them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engram.errors import InputError

# Names of everything that this toolkit wrote into a folder; None when it is not one of its own.
OwnFiles = Callable[[Path], "set[str] | None"]


def check_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> None:
    """Check that a folder of results may appear at a path.

    Args:
        folder: Where it is to appear.
        own_files: Tells what in a folder may be replaced.
        overwrite: Whether it may be.

    Raises:
        InputError: Something else is there, or a folder of results and `overwrite` is False.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    files = own_files(folder) if folder.is_dir() else None
    if files is None:
        raise InputError(
            f"{folder} is there already and was not written by this command; it is not replaced.",
            "Choose another folder.",
            output=str(folder),
        )
    if not overwrite:
        raise InputError(
            f"{folder} is there already.",
            "Choose another folder, or pass --overwrite to replace it.",
            output=str(folder),
        )
    others = sorted({file.name for file in folder.iterdir()} - files)
    if others:
        raise InputError(
            f"{folder} also holds {', '.join(others[:3])}, which this command did not write; the "
            "folder is not replaced.",
            "Move them away, or choose another folder.",
            output=str(folder),
            files=others,
        )


@contextmanager
def new_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes `folder` when the block ends well.

    When it does not, the sibling is removed, and what was at `folder` is still there.

    Args:
        folder: See `check_folder`.
        own_files: See `check_folder`.
        overwrite: See `check_folder`.

    Yields:
        The sibling, empty.

    Raises:
        InputError: See `check_folder`.
    """
    folder = folder.resolve()
    check_folder(folder, own_files, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    sibling = folder.with_name(f".{folder.name}.{mark}.part")
    sibling.mkdir()
    try:
        yield sibling
        _sync(sibling)
        check_folder(folder, own_files, overwrite)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{mark}.old")
            folder.rename(old)
            try:
                sibling.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old)  # checked above: it holds nothing but this toolkit's own files
        else:
            sibling.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(sibling, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders that appear whole or not at all, and never take anything of the user's with them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engram.errors import InputError
from engram.files import NO_ROOM, check_parents

# Names of everything that this toolkit wrote into a folder; None when it is not one of its own.
OwnFiles = Callable[[Path], "set[str] | None"]


def check_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> None:
    """Check that a folder of results may appear at a path.

    Args:
        folder: Where it is to appear.
        own_files: Tells what in a folder may be replaced.
        overwrite: Whether it may be.

    Raises:
        InputError: Something else is there, or a folder of results and `overwrite` is False; or
            what is to hold the folder is a file.
    """
    check_parents(folder)
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
            f"{folder} also holds {', '.join(others[:3])}, which this command does not know as its "
            "own; the folder is not replaced.",
            "Move them away, or choose another folder.",
            output=str(folder),
            files=others,
        )


@contextmanager
def new_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes `folder` when the block ends well.

    When it does not, the sibling is removed, and what was at `folder` is still there. A process
    that is killed leaves its sibling behind; the next one with the same `folder` removes it.

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
    remove_torn(folder)
    check_folder(folder, own_files, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    sibling = folder.with_name(f".{folder.name}.{mark}.part")
    try:
        sibling.mkdir()
    except OSError as error:
        error.filename = str(folder)  # the name that the user knows
        raise
    # The lock says that the sibling is in use; it goes with the process, however that ends.
    descriptor = os.open(sibling, os.O_RDONLY)
    try:
        _lock(descriptor)
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
    except BaseException as error:
        shutil.rmtree(sibling, ignore_errors=True)
        if isinstance(error, OSError) and (
            error.errno in NO_ROOM or str(error.filename).startswith(str(sibling))
        ):
            error.filename, error.filename2 = str(folder), None  # the name that the user knows
        raise
    finally:
        os.close(descriptor)


def torn(folder: Path) -> list[Path]:
    """Find what processes that were killed while they wrote a folder left beside it.

    Args:
        folder: The folder that they were to write.

    Returns:
        Folders that `remove_torn` would remove; those of processes that live are not among them.
    """
    folder = folder.resolve()
    if not folder.parent.is_dir():
        return []
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(part|old)")
    found = [entry for entry in sorted(folder.parent.iterdir()) if name.fullmatch(entry.name)]
    return [entry for entry in found if entry.is_dir() and not _in_use(entry)]


def remove_torn(folder: Path) -> None:
    """Remove what `torn` finds; a folder that was about to be replaced is put back instead."""
    for entry in torn(folder):
        if entry.suffix == ".old" and not folder.exists():
            entry.rename(folder)
        else:
            shutil.rmtree(entry)


def _in_use(folder: Path) -> bool:
    """Whether a process is writing a sibling, or the sibling that replaces what this one holds."""
    part = folder.with_suffix(".part")
    try:
        descriptor = os.open(part if part.is_dir() else folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open folder; False when another has it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Marked hidden folders beside results, where they wait until they are whole.

A folder of such a name counts as the toolkit's only when it holds the mark, a small file that is
written first and removed last, or nothing at all. The mark is locked while a process works there,
so that whoever finds a folder that is not locked knows that its process is gone. Links are never
followed.
"""

import fcntl
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engram.errors import InputError
from engram.storage.full_disk import full_disk

MARK = "unfinished-engram-results.txt"
_TEXT = (
    b"The Engram toolkit keeps results here until they are whole. When none of its commands is at\n"
    b"work, this folder may be removed; the next run of the command does so by itself.\n"
)
_STAGE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")
# Entries of a stage: the results that wait, and those that they replace.
NEW, OLD = "new", "old"


@contextmanager
def stage(target: Path, told: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give an empty folder beside `target`; it goes when the block ends.

    What processes that were killed left for the same target is cleaned first, see `clean`.

    Args:
        target: The results; a rename from the folder to there stays on one disk.
        told: The results, by the name that the user gave.
        sync: See the mark onto the disk, so that it is known after a power cut, too.

    Yields:
        The folder. Results are written as `NEW` in it; what they replace may become `OLD`.

    Raises:
        DoesNotFitError: The disk is full.
    """
    clean(target)
    descriptor = None
    with telling_of(target.parent / f".{target.name}.", told):
        while descriptor is None:
            place = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
            descriptor = claim(place, sync=sync)
        try:
            yield place
        finally:
            # After an error, or a disk that went away, what is left is the next run's to clean.
            with suppress(OSError):
                put_back(place, target)
                remove(place)
            os.close(descriptor)


@contextmanager
def telling_of(place: Path, told: Path) -> Iterator[None]:
    """Have errors of a block tell of the results, and not of a hidden place.

    Args:
        place: Beginning of the hidden paths.
        told: The results, by the name that the user gave.

    Raises:
        DoesNotFitError: The disk is full.
    """
    try:
        yield
    except BaseException as error:
        if (full := full_disk(error, told)) is not None:
            raise full from error
        if isinstance(error, OSError) and str(error.filename).startswith(str(place)):
            error.filename, error.filename2 = str(told), None
        raise


def claim(place: Path, *, sync: bool = True) -> int | None:
    """Make a stage, or take over one whose process is gone, with all that is in it.

    Args:
        place: The stage.
        sync: See the mark onto the disk.

    Returns:
        The descriptor of the mark, which is locked until it is closed; None when another process
        works there.

    Raises:
        InputError: A link is there, or something that is not the toolkit's.
        OSError: The folder cannot be made.
    """
    while True:
        with suppress(FileExistsError):
            place.mkdir()
        try:
            descriptor = _open_mark(place, create=True)
            if descriptor is None and os.path.lexists(place):
                raise in_the_way(place)
            if descriptor is None:
                continue  # another process has just removed it
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            if _is_at(descriptor, place / MARK):
                _write_mark(descriptor, place, sync)
                return descriptor
            os.close(descriptor)
        except OSError:
            with suppress(OSError):
                place.rmdir()
            raise


def in_the_way(place: Path) -> InputError:
    """Say that something else is where a stage is to be."""
    return InputError(
        f"{place} is in the way: it does not bear the mark by which the toolkit knows folders of "
        "its own.",
        "Move it away, or choose another folder; what a version without marks left there may be "
        "removed.",
        work=str(place),
    )


def _write_mark(descriptor: int, place: Path, sync: bool) -> None:
    if os.pread(descriptor, len(_TEXT), 0) == _TEXT:
        return
    try:
        os.pwrite(descriptor, _TEXT, 0)
        if sync:
            os.fsync(descriptor)
            sync_path(place)
    except OSError:
        with suppress(OSError):
            (place / MARK).unlink()
        os.close(descriptor)
        raise


def is_stage(place: Path) -> bool:
    """Whether a folder is a stage: it bears the mark, or holds nothing."""
    with _opened_mark(place) as mark:
        return mark is not None or _is_empty(place)


def in_use(place: Path) -> bool:
    """Whether a process works in a stage; never known where the file system has no locks."""
    with _opened_mark(place) as mark:
        return mark is not None and not _lock(mark)


def leftovers(target: Path) -> list[Path]:
    """Find what processes that were killed while they wrote a target left beside it.

    Args:
        target: The file or folder that they were to write.

    Returns:
        Stages that `clean` would remove; those of processes that live are not among them.
    """
    found = []
    for place in _stages(target.resolve()):
        with _taken(place) as is_left:
            if is_left or _is_empty(place):
                found.append(place)
    return found


def clean(target: Path) -> None:
    """Remove the `leftovers` of a target; results that were about to be replaced are put back."""
    target = target.resolve()
    for place in _stages(target):
        clean_stage(place, target)


def clean_stage(place: Path, target: Path) -> None:
    """Remove one stage of a target, unless a process works there; see `clean`."""
    if _is_empty(place):
        with suppress(OSError):  # another process has just begun or ended there
            place.rmdir()
        return
    with _taken(place) as is_left:
        if is_left:
            put_back(place, target)
            remove(place)


def remove(place: Path) -> None:
    """Remove a stage; the mark goes last."""
    empty(place)
    (place / MARK).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        place.rmdir()


def discard(folder: Path) -> None:
    """Remove a folder so that it disappears whole: what a kill leaves of it is a stage."""
    with stage(folder, folder, sync=False) as place:
        folder.rename(place / NEW)


def clean_all(folder: Path) -> None:
    """Remove the `leftovers` of everything that is in a folder, or was to be."""
    for place in folder.iterdir():
        if match := _STAGE.fullmatch(place.name):
            clean(folder / match[1])


def empty(place: Path) -> None:
    """Remove all that a stage holds, but not the mark."""
    for entry in place.iterdir():
        if entry.name != MARK:
            remove_entry(entry)


def remove_entry(entry: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def sync_all(folder: Path) -> None:
    """See a folder with all its files onto the disk, but for files linked from elsewhere."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                sync_path(path)
        sync_path(Path(parent))


def sync_path(path: Path) -> None:
    """See a file, or the names that a folder holds, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_back(place: Path, target: Path) -> None:
    """Put back what was about to be replaced when its process ended."""
    if os.path.lexists(place / OLD) and not os.path.lexists(target):
        (place / OLD).rename(target)


def _stages(target: Path) -> list[Path]:
    """Folders whose names are those of a target's stages."""
    try:
        named = [(entry, _STAGE.fullmatch(entry.name)) for entry in target.parent.iterdir()]
    except OSError:  # no folder, or one that may be written to and not listed
        return []
    return sorted(entry for entry, match in named if match and match[1] == target.name)


def _is_empty(place: Path) -> bool:
    try:
        return not place.is_symlink() and place.is_dir() and not any(place.iterdir())
    except OSError:
        return False


@contextmanager
def _taken(place: Path) -> Iterator[bool]:
    """Lock a stage whose process is gone; False when it is in use, or that cannot be told."""
    with _opened_mark(place) as mark:
        yield mark is not None and _lock(mark, without=False) and _is_at(mark, place / MARK)


@contextmanager
def _opened_mark(place: Path) -> Iterator[int | None]:
    """Open the mark of a stage, see `_open_mark`, and close it, which unlocks it too."""
    descriptor = _open_mark(place)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_mark(place: Path, *, create: bool = False) -> int | None:
    """Open the mark of a stage; None when this is none.

    Raises:
        OSError: A new mark cannot be made.
    """
    options = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        names = [entry.name for entry in os.scandir(folder)]
        if not names and create:
            with suppress(FileNotFoundError):
                return os.open(MARK, options | os.O_CREAT, 0o666, dir_fd=folder)
        try:
            descriptor = os.open(MARK, options, dir_fd=folder)
        except OSError:
            return None
        content = os.pread(descriptor, len(_TEXT) + 1, 0)
        # A process may have been killed before the mark was whole, and then wrote nothing else.
        if content == _TEXT or (names in ([], [MARK]) and _TEXT.startswith(content)):
            return descriptor
        os.close(descriptor)
        return None
    finally:
        os.close(folder)


def _lock(descriptor: int, *, without: bool = True) -> bool:
    """Lock an open mark, False when another has it; `without` is for file systems without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False

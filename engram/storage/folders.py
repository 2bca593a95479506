"""Folders that appear whole or not at all, and never take anything of the user's with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engram.errors import InputError
from engram.storage import staging
from engram.storage.files import check_parents

# Names of everything that this toolkit wrote into a folder; None when it is not one of its own.
OwnFiles = Callable[[Path], "set[str] | None"]


def check_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> None:
    """Check that a folder of results may appear at a path.

    When it may not, what killed processes left beside it is removed here: no writer will.

    Args:
        folder: Where it is to appear.
        own_files: Tells what in a folder may be replaced.
        overwrite: Whether it may be.

    Raises:
        InputError: Something else is there, or a folder of results and `overwrite` is False; or
            what is to hold the folder is a file.
    """
    try:
        _check(folder, own_files, overwrite)
    except InputError:
        staging.clean(folder)
        raise


def _check(folder: Path, own_files: OwnFiles, overwrite: bool) -> None:
    check_parents(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    files = own_files(folder) if folder.is_dir() else None
    if files is None:
        raise InputError(
            f"{folder} is there already, and nothing in it says that this command wrote it; it is "
            "not replaced.",
            "Choose another folder.",
            output=str(folder),
        )
    if not overwrite:
        raise InputError(
            f"{folder} is there already.",
            "Choose another folder, or pass --overwrite (in Python, overwrite=True) to replace it.",
            output=str(folder),
        )
    if others := sorted({file.name for file in folder.iterdir()} - files):
        raise InputError(
            f"{folder} also holds {', '.join(others[:3])}, which this command does not know as its "
            "own; the folder is not replaced.",
            "Move them away, or choose another folder.",
            output=str(folder),
            files=others,
        )


@contextmanager
def new_folder(folder: Path, own_files: OwnFiles, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder that becomes `folder` when the block ends well.

    When it does not, the hidden folder is removed, and what was at `folder` is still there. A
    process that is killed leaves it there; the next one with the same `folder` removes it, and
    puts back what was about to be replaced.

    Args:
        folder: See `check_folder`.
        own_files: See `check_folder`.
        overwrite: See `check_folder`.

    Yields:
        The hidden folder, empty.

    Raises:
        InputError: See `check_folder`.
        DoesNotFitError: The disk is full.
    """
    folder = folder.resolve()
    staging.clean(folder)
    check_folder(folder, own_files, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staging.stage(folder, folder) as place:
        new = place / staging.NEW
        new.mkdir()
        yield new
        staging.sync_all(new)
        _check(folder, own_files, overwrite)
        if folder.exists():
            folder.rename(place / staging.OLD)
        new.rename(folder)
        staging.sync_path(folder.parent)


def demand_apart(output: Path, given: Path) -> None:
    """Refuse an output that is an input, lies in it, or would take it with it.

    Paths are compared by where they lead: links and relative paths do not hide an input.

    Args:
        output: Folder to appear, which may replace one that is there.
        given: The folder or file that is read.

    Raises:
        InputError: They are not apart.
    """
    target, source = output.expanduser().resolve(), given.expanduser().resolve()
    if target == source:
        what = f"{output} is what is read"
    elif source in target.parents:
        what = f"{output} lies in {given}, which is read"
    elif target in source.parents:
        what = f"{given}, which is read, lies in {output}"
    else:
        return
    raise InputError(
        f"{what}: it would be changed or lost.",
        "Choose another folder; what is read stays as it is.",
        output=str(output),
        input=str(given),
    )

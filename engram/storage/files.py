"""Files that appear whole or not at all: written beside their place, synced, renamed."""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from engram.errors import InputError, MissingFileError
from engram.storage.staging import NEW, clean, stage

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
# What these names lead to may be a regular file, which its writer would lose.
_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)$|fd/)|/proc/")

_BLOCK_BYTES = 2**20

# Called with the bytes done so far and in all, None when that is not known.
Progress = Callable[[int, "int | None"], None]


def check_file(path: Path, overwrite: bool) -> None:
    """Check that a file of results may appear at a path.

    Args:
        path: Where it is to appear. A link is followed.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        InputError: Something else is there, such as a folder or a device; or a file and
            `overwrite` is False; or what is to be its folder is a file.
        MissingFileError: There is no folder to put it into.
    """
    target = _target(path)
    if target.exists() and not overwrite:
        clean(target)
        raise InputError(
            f"{path} is already there.",
            "Pass --overwrite (in Python, overwrite=True) to replace it.",
            path=str(path),
        )
    check_parents(target)
    if not target.parent.is_dir():
        raise MissingFileError.at(target.parent, "Make it first.", path=str(target.parent))


def check_parents(path: Path) -> None:
    """Check that what a path lies in are folders, as far as they are there.

    Raises:
        InputError: One of them is something else.
    """
    there = next((parent for parent in path.parents if parent.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(
            f"{there} is {_kind(there)}, not a folder: nothing can be put into it.",
            "Choose another place.",
            path=str(path),
            parent=str(there),
        )


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file in a hidden folder beside `path`, renamed to `path` when the block ends well.

    A process that is killed leaves the hidden folder; the next that writes the same file removes
    it.

    Args:
        path: The file to appear; one that is there is replaced. A link stays, and what it leads to
            is replaced. Nothing appears when the block raises.
        mode: "wb", or "w" for UTF-8 text.

    Yields:
        The open file.

    Raises:
        InputError: Something else than a file is there, such as a folder or a device.
        DoesNotFitError: The disk is full.
    """
    target = _target(path)
    with stage(target, path, sync=False) as place:
        with (place / NEW).open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        (place / NEW).replace(target)


def _target(path: Path) -> Path:
    """Resolve a path to the file itself, after any links.

    Raises:
        InputError: It is there and no regular file, or the name of a stream of this process.
    """
    kind = "a stream of this process" if _STREAM.match(str(path.absolute())) else _kind(path)
    if kind not in ("nothing", "a file"):
        raise InputError(
            f"{path} is {kind}; it is not replaced.", "Give the path of a file.", path=str(path)
        )
    return path.resolve() if path.is_symlink() else path


def _kind(path: Path) -> str:
    """Say what is at a path, in words."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads in a circle" if error.errno == errno.ELOOP else "nothing"
    return _KINDS[stat.S_IFMT(mode)]


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all: indented by two, readable in all languages."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name need not be UTF-8
        text = json.dumps(values, indent=2)
    with atomic_write(path, "w") as file:
        file.write(f"{text}\n")


def sha256_of(file: Path, step: Callable[[], None] | None = None) -> str:
    """Return the sha256 of a file, in hexadecimal.

    Args:
        file: The file.
        step: Called for every MiB; what it raises ends the work.
    """
    import hashlib  # the commands that only size and show need none of it

    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            if step is not None:
                step()
    return digest.hexdigest()


def are_as_digested(
    folder: Path, digests: Mapping[str, str], step: Callable[[], None] | None = None
) -> bool:
    """Whether files of a folder can be read and have the sha256 that is known of them.

    Args:
        folder: The folder.
        digests: The sha256 of the files, by name.
        step: See `sha256_of`.
    """
    try:
        return all(sha256_of(folder / name, step) == digests[name] for name in digests)
    except OSError:
        return False

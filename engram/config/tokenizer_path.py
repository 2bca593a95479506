"""Tokenizer paths in configs, relative to the config's file so that folders can be moved."""

import os
from pathlib import Path

from engram.storage.file_names import exists

# Tokenizer of a memory whose folder holds the tokenizer beside the weights.
OWN = "."


def is_path(name: str) -> bool:
    """Whether a tokenizer's name is a path, rather than a hub id or ``package:NAME``."""
    return name.startswith((".", "/", "~")) or Path(name).exists()


def read_from(name: str, folder: Path) -> str:
    """Resolve the name of a tokenizer in a file in `folder`.

    Args:
        name: The name in the file. A relative path starts from the folder.
        folder: The folder of the file.
    """
    beside = folder / name
    if name != OWN and (Path(name).is_absolute() or not exists(beside)):
        return name
    # A linked folder has another parent than its path shows.
    short = Path(os.path.normpath(beside))
    is_other = exists(beside) and not (exists(short) and beside.samefile(short))
    return str(beside if is_other else short)


def write_to(name: str, folder: Path) -> str:
    """Return the name to write into a file in `folder` for a name given in this directory.

    Args:
        name: A path that starts with ``.`` is relative to the working directory; other names stay.
        folder: The folder of the file to write.
    """
    if not name.startswith("."):
        return name
    relative = Path(os.path.relpath(name, folder.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def given(name: str) -> str:
    """Return a tokenizer's name as given; the name of an existing file or folder becomes a path."""
    path = Path(name)
    return explicit(path) if name and exists(path) else name


def explicit(folder: Path) -> str:
    """Write a folder as a path that cannot be taken for a hub id; a relative one stays relative."""
    text = folder.as_posix()
    return text if folder.is_absolute() or text.startswith(".") else f"./{text}"

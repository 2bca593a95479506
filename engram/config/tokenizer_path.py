"""Tokenizers that configs name by path: relative to the file that names them, on any machine."""

from __future__ import annotations

import os
from pathlib import Path

from engram.storage.file_names import exists

# What a folder with a memory says of the tokenizer beside its weights.
OWN = "."


def is_path(name: str) -> bool:
    """Whether a tokenizer's name is a path; else it is a hub id, or ``package:NAME``."""
    return name.startswith((".", "/", "~")) or Path(name).exists()


def read_from(name: str, folder: Path) -> str:
    """Return what a tokenizer that a file in `folder` names means here.

    Args:
        name: As the file states it. A relative path counts from the folder.
        folder: Where the file is.
    """
    beside = folder / name
    is_beside = name == OWN or (not Path(name).is_absolute() and exists(beside))
    if not is_beside:
        return name
    # A folder behind a link has another parent than its path says.
    short = Path(os.path.normpath(beside))
    is_other = exists(beside) and not (exists(short) and beside.samefile(short))
    return str(beside if is_other else short)


def write_to(name: str, folder: Path) -> str:
    """Return what a file in `folder` has to state so that it means what a name means here.

    Args:
        name: A path that starts with ``.`` counts from here; other names stay as they are.
        folder: Where the file is to be.
    """
    if not name.startswith("."):
        return name
    relative = Path(os.path.relpath(name, folder.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def given(name: str) -> str:
    """Return a tokenizer's name as it was given here; a file or folder here becomes a path."""
    path = Path(name)
    return explicit(path) if name and exists(path) else name


def explicit(folder: Path) -> str:
    """Write a folder as a path that nobody takes for a hub id; a relative one stays relative."""
    text = folder.as_posix()
    return text if folder.is_absolute() or text.startswith(".") else f"./{text}"

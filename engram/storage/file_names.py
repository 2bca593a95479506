"""Names of files that anyone may have given: are they there, do they stay in their folder?"""

import os
from pathlib import Path, PureWindowsPath
from typing import TypeGuard

from engram.errors import UsageError

_MAX_PART_BYTES, _MAX_NAME_BYTES = 255, 1024


def is_inside(name: object) -> TypeGuard[str]:
    """Whether something names a file in a folder or below it: relative, with ``/``, no ``..``.

    Only the name is judged: what it leads to may be a link, as in the hub's cache.
    """
    if not isinstance(name, str) or "\\" in name or "\0" in name or PureWindowsPath(name).drive:
        return False
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    parts = encoded.split(b"/")
    short = len(encoded) <= _MAX_NAME_BYTES and max(map(len, parts)) <= _MAX_PART_BYTES
    return short and not {b"", b".", b".."} & set(parts)


def is_weight_file(name: object) -> TypeGuard[str]:
    """Whether something names a safetensors file right in a folder."""
    return is_inside(name) and "/" not in name and name.endswith(".safetensors")


def refuse_empty(name: str | Path, subject: str) -> None:
    """Refuse an empty name, which as a path would mean the current folder.

    Args:
        name: A path or another name.
        subject: The thing that it names, for the message.

    Raises:
        UsageError: It is empty.
    """
    if not str(name):
        raise UsageError(f"The name of {subject} is empty.", "Write . for the current folder.")


def exists(path: Path) -> bool:
    """Whether something is at a path; not where the path is too long for a file's."""
    try:
        return path.exists()
    except OSError:
        return False

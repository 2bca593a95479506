"""A disk without room, in whatever words a library tells of it, as one error."""

import errno
import os
import re
import shutil
from pathlib import Path

from engram.errors import DoesNotFitError
from engram.units import format_bytes

# Errors of a system where a file finds no room: a full disk, a quota, a limit on its size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# numpy, safetensors, torch and pyarrow raise errors of their own, some without the system's number.
_TOLD = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in NO_ROOM)
    + r"|\d+ requested and \d+ written|PytorchStreamWriter failed writing|file write failed"
)

_SPARE_BYTES = 64 * 2**20


def demand_room(output: Path, needed_bytes: int, hint: str) -> None:
    """Refuse to write more than the disk has room for.

    Args:
        output: What is to appear; the folder for it need not be there.
        needed_bytes: Bytes that are to be written.
        hint: What helps if there is too little room.

    Raises:
        DoesNotFitError: There is.
    """
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if needed_bytes + _SPARE_BYTES > free:
        raise DoesNotFitError(
            f"{format_bytes(needed_bytes)} are to be written to {parent}, which has "
            f"{format_bytes(free)} free.",
            hint,
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def full_disk(error: BaseException, path: Path | str | None) -> DoesNotFitError | None:
    """Return the error that says which results found no room.

    Args:
        error: An exception that ended a write.
        path: The results, by the name that the user gave; None when it is not known.

    Returns:
        None when the exception tells of something else.
    """
    number = _number(error)
    if number is None:
        return None
    return DoesNotFitError(
        f"{'' if path is None else f'{path}: '}{os.strerror(number)}.",
        "Free some space, or write to another disk.",
        path=None if path is None else str(path),
        errno=errno.errorcode[number],
    )


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error that tells of too little room."""
    if isinstance(error, DoesNotFitError):  # one of these, told of a file inside
        names = {errno.errorcode[number]: number for number in NO_ROOM}
        return names.get(error.details.get("errno", ""))
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in NO_ROOM else None
    if not isinstance(error, Exception) or not (told := _TOLD.search(str(error))):
        return None
    return next((n for n in NO_ROOM if os.strerror(n) == told[0]), errno.ENOSPC)

"""A disk without room, in whatever words a library tells of it, as one error."""

import errno
import os
import re
from pathlib import Path

from engram.errors import DoesNotFitError

# Errors of a system where a file finds no room: a full disk, a quota, a limit on its size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# numpy, safetensors, torch and pyarrow raise errors of their own, some without the system's number.
_TOLD = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in NO_ROOM)
    + r"|\d+ requested and \d+ written|PytorchStreamWriter failed writing|file write failed"
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

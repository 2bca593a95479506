"""Whether a disk has room for what is to be written."""

import shutil
from pathlib import Path

from engram.errors import DoesNotFitError
from engram.units import format_bytes

_SPARE_BYTES = 64 * 2**20


def demand_room(output: Path, needed_bytes: int, other_ways: str = "") -> None:
    """Refuse to write more than a disk has room for.

    Args:
        output: The file or folder that is to be written.
        needed_bytes: Its bytes.
        other_ways: More to do about it, for the message.

    Raises:
        DoesNotFitError: The disk has too little.
    """
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if needed_bytes + _SPARE_BYTES > free:
        raise DoesNotFitError(
            f"{format_bytes(needed_bytes)} are to be written to {parent}, which has "
            f"{format_bytes(free)} free.",
            f"Free some space, write to another disk, or make the tables smaller{other_ways}.",
            needed_bytes=needed_bytes,
            free_bytes=free,
        )

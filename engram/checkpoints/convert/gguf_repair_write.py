"""`write_repaired`: a repaired model, whole or not at all; and refusals of outputs beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engram.checkpoints.attach.folder_plan import place_file
from engram.checkpoints.convert.gguf_repair_parts import NewPart
from engram.checkpoints.convert.gguf_repair_result import Repaired, RepairedFile
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.errors import EngramError, UsageError
from engram.storage.copied_bytes import copy_stretch
from engram.storage.files import Progress, atomic_write, check_file, write_json
from engram.storage.folders import check_folder, demand_apart, new_folder
from engram.storage.json_files import read_json
from engram.storage.room import demand_room

RECORD_FILE = "engram-repair.json"


def check_output(
    memory: GgufMemory, result: Repaired, parts: Sequence[NewPart], overwrite: bool
) -> None:
    """Refuse what cannot be written where it is to appear.

    Args:
        memory: The source.
        result: The output and its files.
        parts: The files.
        overwrite: Whether what a repair wrote may be replaced.

    Raises:
        UsageError: A file is to be a folder, or the other way round.
        InputError: Something is there that may not be replaced.
        DoesNotFitError: The disk has too little room.
    """
    output = result.output
    for part in memory.files.parts:
        demand_apart(output, part.path)
    is_file = output.suffix == ".gguf"
    if is_file and len(parts) > 1:
        raise UsageError(
            f"{output} is the name of a file, and the model has {len(parts)} parts.",
            "Give a folder.",
            output=str(output),
        )
    if not is_file and len(parts) == 1:
        raise UsageError(
            f"{output} is to be a file: its name must end with .gguf.",
            f"Pass -o {output / memory.files.parts[0].path.name}",
            output=str(output),
        )
    if is_file:
        check_file(output, overwrite)
    else:
        check_folder(output, own_files, overwrite)
    pairs = zip(parts, result.files, strict=True)
    demand_room(
        output,
        sum(part.taken_bytes for part, file in pairs if file.origin != "linked"),
        ", or pass --link (in Python, link=True), which links parts that stay as they are",
    )


def write_repaired(
    result: Repaired, parts: Sequence[NewPart], overwrite: bool, progress: Progress | None
) -> None:
    """Write the files of a repaired model.

    Args:
        result: The output and its files.
        parts: The files.
        overwrite: See `check_output`.
        progress: Told the bytes written so far and their total.

    Raises:
        EngramError: See `check_output`; or a file that is read has become shorter.
    """
    done = 0

    def step(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(done, result.written_bytes)

    if len(parts) == 1:
        with atomic_write(result.output) as opened:
            parts[0].write(opened.fileno(), step)
            check_file(result.output, overwrite)  # it may have appeared since
        return
    with new_folder(result.output, own_files, overwrite) as folder:
        for part, file in zip(parts, result.files, strict=True):
            _write_part(folder / part.name, part, file, step)
        write_json(folder / RECORD_FILE, result.to_dict())


def _write_part(
    path: Path, part: NewPart, planned: RepairedFile, step: Callable[[int], object]
) -> None:
    if planned.origin == "linked" and part.origin is not None:
        place_file(part.origin.path, path, link=True)
        return
    with path.open("xb") as file:
        if planned.origin == "copied" and part.origin is not None:
            copy_stretch(part.origin.path, 0, file.fileno(), 0, part.size_bytes, step)
            file.truncate(part.size_bytes)
        else:
            part.write(file.fileno(), step)


def own_files(folder: Path) -> set[str] | None:
    """Name what repairing wrote into a folder; None when it did not."""
    try:
        stated = read_json(folder / RECORD_FILE)
        return {RECORD_FILE, *(file["name"] for file in stated["files"])}
    except (EngramError, OSError, KeyError, TypeError):
        return None

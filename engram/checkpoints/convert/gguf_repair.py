"""`repair_gguf`: a memory in GGUF with its metadata mended; rows and weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.checkpoints.attach.folder_plan import place_file
from engram.checkpoints.convert.gguf_repair_changes import Change, changes
from engram.checkpoints.convert.gguf_repair_facts import RightFacts
from engram.checkpoints.convert.gguf_repair_parts import NewPart, read_planned, stored_bytes
from engram.checkpoints.convert.gguf_repair_plan import RepairPlan
from engram.checkpoints.gguf.file_faults import Fault, FileJudge
from engram.checkpoints.gguf.gguf_memory import GgufMemory, open_gguf
from engram.checkpoints.verify.verify_gguf import faults_of
from engram.errors import EngramError, MissingFileError, NoError, UsageError
from engram.layouts.gguf_dialect import GgufDialect
from engram.layouts.gguf_dialects import DIALECTS, dialects_of, find_dialect
from engram.storage.copied_bytes import copy_stretch
from engram.storage.file_names import refuse_empty
from engram.storage.files import Progress, atomic_write, check_file, write_json
from engram.storage.folders import check_folder, demand_apart, new_folder
from engram.storage.full_disk import demand_room
from engram.storage.json_files import read_json
from engram.units import listed

RECORD_FILE = "engram-repair.json"
# Faults that no metadata mends: told even where a tokenizer is missing for others.
_BEYOND_METADATA = (
    *("PARTIAL_BLOCK", "NESTED_ARRAY", "NOT_UTF8", "SPLIT_NAME", "TENSOR_MISSING", "ROW_TYPE"),
    *("ENCODING_UNKNOWN", "SIZES_FIXED"),
)
_TOLD = 8  # faults that a message names


@dataclass(frozen=True)
class RepairedFile:
    """One file of a repaired model.

    Attributes:
        name: Its name.
        bytes: Its size.
        origin: ``written`` anew, with the tensors of the source; ``linked`` or ``copied`` as it is.
    """

    name: str
    bytes: int
    origin: Literal["written", "linked", "copied"]


@dataclass(frozen=True, repr=False)
class Repaired:
    """Result of `repair_gguf`.

    Attributes:
        source: The model that was read, as it was named.
        output: The file, or the folder of a model in parts.
        dialect: Dialect of the repaired model.
        engine: The engine whose loader takes it, where one was named.
        mended: Faults that the source has, and the result has not.
        changes: What was written, renamed or removed.
        files: The files of the result; none where there was nothing to mend.
        written: Whether they were written, and not only planned.
    """

    source: str
    output: Path
    dialect: str
    engine: str | None
    mended: tuple[Fault, ...]
    changes: tuple[Change, ...]
    files: tuple[RepairedFile, ...]
    written: bool

    def __repr__(self) -> str:
        return f"<Repaired {self.source}: {len(self.mended)} faults mended in {self.output}>"

    @property
    def written_bytes(self) -> int:
        """Bytes of the files that are not links."""
        return sum(file.bytes for file in self.files if file.origin != "linked")

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram convert --repair --json`` prints."""
        return {
            "schema": "engram.repair/1",
            "source": self.source,
            "output": str(self.output),
            "dialect": self.dialect,
            "engine": self.engine,
            "written": self.written,
            "written_bytes": self.written_bytes,
            "files": [vars(file) for file in self.files],
            "mended": [fault._asdict() for fault in self.mended],
            "changes": [change._asdict() for change in self.changes],
        }


@checked()
def repair_gguf(
    path: str | Path,
    output: str | Path,
    *,
    tokenizer: str | Path | TokenizerFile | None = None,
    engine: str | None = None,
    first_shard: bool = False,
    link: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Repaired:
    """Mend the metadata of a memory in GGUF: all that `verify` names and that tensors do not have.

    Missing constants are computed from the released config of the layout and the token map; what is
    right stays as it is stored. The source is never changed: a single file is copied with a new
    header, and of a model in parts those whose headers change, which mostly is the first. What
    cannot be mended so is an error, and nothing is written.

    Args:
        path: The file, any part of a split one, or a folder with one model.
        output: The file to appear; of a model in parts the folder.
        tokenizer: The model's tokenizer, or its name or path: needed where the file has no right
            token map.
        engine: Short name of an engine, whose loader is to take the result; see `dialects_of`.
        first_shard: Give metadata a first part of their own without weights, so that the next
            repair rewrites that part alone.
        link: Hard-link parts that stay as they are instead of copying them.
        overwrite: Replace a file that is there, or a folder that this function wrote.
        dry_run: Write nothing.
        progress: Told the bytes written so far and their total.

    Returns:
        What was mended and written; `to_dict()` is what ``engram convert --repair --json`` prints.
        Without files where there is nothing to mend.

    Raises:
        NoError: Something is wrong that metadata do not mend; `details` has the faults.
        MissingFileError: A file is not there; or the token map is needed, and no tokenizer was
            given.
        MismatchError: The tokenizer is another one than the memory was made with.
        InputError: There is no memory; or something is at the output that may not be replaced.
        UsageError: The engine is unknown, or the output is no file of GGUF or no folder.
        DoesNotFitError: The disk has too little room.
    """
    refuse_empty(path, "the GGUF file")
    output = Path(output)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    memory = open_gguf(Path(path))
    dialect = memory.dialect if engine is None else _dialect_of(engine, memory)
    faults = faults_of(memory, engine)
    if hidden := [*_of_places(memory), *(it for it in faults if it.code == "HALF_DONE")]:
        raise _beyond(memory, hidden)
    done = partial(Repaired, str(path), output, engine=engine, mended=tuple(faults))
    if not faults and not (first_shard and memory.files.parts[0].tensors):
        return done(dialect.name, changes=(), files=(), written=False)
    if any(fault.code == "NAME_MISMATCH" for fault in FileJudge(memory).names()):
        memory = replace(memory, dialect=_closest(memory))
        dialect = memory.dialect if engine is None else dialect
    facts = RightFacts(memory, dialect, own)
    if facts.needs_tokenizer:
        raise _needs_tokenizer(memory, faults)
    plan = RepairPlan(memory, dialect, facts, engine is not None)
    parts = plan.parts(output.name, first_shard)
    _demand_whole(plan, parts, output, engine)
    files = tuple(
        RepairedFile(part.name, part.size_bytes, _origin(part, link, len(parts))) for part in parts
    )
    result = done(dialect.name, changes=changes(memory, parts), files=files, written=not dry_run)
    _check_output(memory, output, parts, overwrite)
    demand_room(
        output,
        sum(
            part.taken_bytes for part, it in zip(parts, files, strict=True) if it.origin != "linked"
        ),
        "Free some space, write to another disk, or pass --link (in Python, link=True) to link "
        "parts that stay as they are.",
    )
    if not dry_run:
        _write(result, parts, overwrite, progress)
    return result


def _dialect_of(engine: str, memory: GgufMemory) -> GgufDialect:
    """Return the dialect in which an engine reads memories of a layout."""
    known = dialects_of(engine)
    found = next((it for it in known if it.layout == memory.dialect.layout), None)
    if found is None:
        raise UsageError(
            f"{engine} is not known to read memories of layout {memory.dialect.layout}.",
            f"It reads {', '.join(it.layout for it in known)}.",
            engine=engine,
            layout=memory.dialect.layout,
        )
    return found


def _closest(memory: GgufMemory) -> GgufDialect:
    """Find the dialect of which a file has the most keys and tensors, its own first.

    One tensor under the name that another dialect gives it makes a file one of that dialect.
    """
    plain = {key.partition(".")[2] for key in memory.files.values}

    def share(dialect: GgufDialect) -> float:
        keys = [it.name in plain for it in dialect.facts.values() if not it.is_tensor]
        templates = (dialect.table, dialect.scales, *dialect.weights.values())
        found = [
            template.replace("{layer}", str(layer_id)) in memory.files.tensors
            for template in templates
            if template is not None
            for layer_id in memory.tensor_layers
        ]
        return sum([*keys, *found]) / max(1, len(keys) + len(found))

    own = memory.dialect
    return max([own, *(it for it in DIALECTS if it.layout == own.layout)], key=share)


def _of_places(memory: GgufMemory) -> list[Fault]:
    """Tensors that lie over each other: their bytes cannot be told apart."""
    found = []
    for part in memory.files.parts:
        sizes = stored_bytes(part)
        tensors = sorted(part.tensors.values(), key=lambda it: it.start)
        for one, other in pairwise(tensors):
            if one.start + sizes[one.name] > other.start and sizes[other.name]:
                what = f"{other.name} begins before {one.name} ends"
                found.append(Fault("NOT_CONSECUTIVE", what, "Download or convert the file again."))
    return found


def _beyond(memory: GgufMemory, faults: Sequence[Fault]) -> NoError:
    """Return the error for what metadata do not mend."""
    told = listed([f"{it.code}: {it.message}. {it.repair}" for it in faults], _TOLD, "\n")
    return NoError(
        f"{memory.name} cannot be mended by its metadata alone; nothing was written:\n{told}",
        "Convert the model again, or download it from another place.",
        path=memory.name,
        codes=sorted({fault.code for fault in faults}),
        faults=[fault._asdict() for fault in faults],
    )


def _needs_tokenizer(memory: GgufMemory, faults: Sequence[Fault]) -> EngramError:
    if beyond := [fault for fault in faults if fault.code in _BEYOND_METADATA]:
        return _beyond(memory, beyond)
    return MissingFileError(
        f"{memory.name} has no right token map, and the others of its constants follow from it.",
        "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
        path=memory.name,
    )


def _demand_whole(
    plan: RepairPlan, parts: Sequence[NewPart], output: Path, engine: str | None
) -> None:
    """Judge the files as they will be.

    Raises:
        NoError: They have faults.
    """
    files = read_planned(parts, output if len(parts) > 1 else output.parent)
    found = find_dialect(files.values, files.tensors, plan.architecture) or plan.dialect
    planned = GgufMemory(plan.memory.name, files, found)
    if left := faults_of(planned, engine):
        raise _beyond(plan.memory, left)


def _origin(part: NewPart, link: bool, count: int) -> Literal["written", "linked", "copied"]:
    if not part.is_kept or count == 1:
        return "written"
    return "linked" if link else "copied"


def _check_output(
    memory: GgufMemory, output: Path, parts: Sequence[NewPart], overwrite: bool
) -> None:
    """Refuse an output of the wrong kind, or one that may not be replaced."""
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


def _write(
    result: Repaired, parts: Sequence[NewPart], overwrite: bool, progress: Progress | None
) -> None:
    done = 0

    def step(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(done, result.written_bytes)

    if len(parts) == 1:
        with atomic_write(result.output) as file:
            parts[0].write(file.fileno(), step)
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

"""`repair_gguf`: a memory in GGUF with its metadata mended; rows and weights stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.checkpoints.convert.gguf_repair_changes import changes
from engram.checkpoints.convert.gguf_repair_facts import RightFacts
from engram.checkpoints.convert.gguf_repair_parts import NewPart, read_planned, stored_bytes
from engram.checkpoints.convert.gguf_repair_plan import RepairPlan, has_weights_first
from engram.checkpoints.convert.gguf_repair_result import Origin, Repaired, RepairedFile
from engram.checkpoints.convert.gguf_repair_write import check_output, write_repaired
from engram.checkpoints.gguf.file_faults import Fault
from engram.checkpoints.gguf.gguf_memory import GgufMemory, memory_of, open_gguf
from engram.checkpoints.verify.verify_gguf import faults_of
from engram.errors import EngramError, MissingFileError, NoError, UsageError
from engram.layouts.gguf_dialect import GgufDialect
from engram.layouts.gguf_dialects import DIALECTS, dialects_of
from engram.storage.file_names import refuse_empty
from engram.storage.files import Progress
from engram.units import listed

# Faults that no metadata mends: told even where a tokenizer is missing for others.
_BEYOND_METADATA = (
    *("PARTIAL_BLOCK", "NESTED_ARRAY", "NOT_UTF8", "SPLIT_NAME", "TENSOR_MISSING", "ROW_TYPE"),
    *("ENCODING_UNKNOWN", "SIZES_FIXED"),
)
# Facts that are ids, by the codes of their faults: they are judged by other constants.
_OF_IDS = {"EOS_WRONG": "eos_token_id", "PAD_SPACE": "pad_id"}
_TOLD = 8  # faults that a message names


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
        UsageError: The engine is unknown, or the output must be a folder, or a file.
        DoesNotFitError: The disk has too little room.

    Examples:
        >>> import engram
        >>> mended = engram.repair_gguf("model.gguf", "mended.gguf").mended
        >>> [fault.code for fault in mended]
        ['OFFSETS_WRONG']
    """
    refuse_empty(path, "the GGUF file")
    output = Path(output)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    was = memory = open_gguf(Path(path))
    dialect = memory.dialect if engine is None else _dialect_of(engine, memory)
    faults = faults_of(memory, engine)
    cut = [fault for fault in faults if fault.code == "HALF_DONE"]
    if hidden := [*cut, *_overlaps(memory), *_lost_tables(memory, dialect)]:
        raise _beyond(memory, hidden)
    done = partial(Repaired, str(path), output, engine=engine, mended=tuple(dict.fromkeys(faults)))
    if not faults and own is not None:  # which may be another than the file's
        _ = RightFacts(memory, dialect, own).token_map
    if not faults and not (first_shard and has_weights_first(memory)):
        return done(dialect.name, changes=(), files=(), written=False)
    if {"NAME_MISMATCH", "CONST_MISSING"} & {fault.code for fault in faults}:
        memory = replace(memory, dialect=_closest(memory))
        dialect = memory.dialect if engine is None else dialect
    facts = RightFacts(memory, dialect, own)
    if facts.needs_tokenizer:
        raise _needs_tokenizer(memory, faults)
    plan = RepairPlan(memory, dialect, facts, engine is not None)
    parts = plan.parts(output.name, first_shard)
    files = tuple(_file(part, link, len(parts)) for part in parts)
    result = done(dialect.name, changes=changes(memory, parts), files=files, written=not dry_run)
    check_output(memory, result, parts, overwrite)
    planned = _demand_whole(plan, parts, output, engine, {fault.code for fault in faults})
    result = replace(
        result, mended=tuple(it for it in result.mended if _is_mended(it, was, planned))
    )
    if not dry_run:
        write_repaired(result, parts, overwrite, progress)
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

    A tensor under the name that another dialect gives it makes a file one of that dialect, as does
    the lack of the key that tells its own.
    """
    plain = {key.partition(".")[2] for key in memory.files.values}

    def there(dialect: GgufDialect) -> int:
        facts, tensors = dialect.facts.values(), memory.files.tensors
        templates = (dialect.table, dialect.scales, *dialect.weights.values())
        names = [
            template.replace("{layer}", str(layer_id))
            for template in templates
            if template is not None
            for layer_id in memory.tensor_layers
        ]
        found = [place.name in (tensors if place.is_tensor else plain) for place in facts]
        return sum(found) + sum(name in tensors for name in names)

    own = memory.dialect
    return max([own, *(it for it in DIALECTS if it.layout == own.layout)], key=there)


def _overlaps(memory: GgufMemory) -> list[Fault]:
    """Tensors that lie over each other: their bytes are of one or of the other."""
    found = []
    for part in memory.files.parts:
        sizes = stored_bytes(part)
        tensors = sorted(part.tensors.values(), key=lambda it: it.start)
        for one, other in pairwise(tensors):
            if one.start + sizes[one.name] > other.start and sizes[other.name]:
                what = f"{other.name} begins before {one.name} ends"
                found.append(Fault("NOT_CONSECUTIVE", what, "Download or convert the file again."))
    return found


def _lost_tables(memory: GgufMemory, dialect: GgufDialect) -> list[Fault]:
    """The table that another dialect has in its files, where these have none."""
    if dialect is memory.dialect or dialect.table is None or memory.tables:
        return []
    lacks = f"it holds no table, which {dialect.name} has in its files"
    return [Fault("TENSOR_MISSING", lacks, "Convert the checkpoint again.")]


def _beyond(memory: GgufMemory, faults: Sequence[Fault]) -> NoError:
    """Return the error for what metadata do not mend."""
    lines = [f"{it.code}: {it.message.rstrip('.')}. {it.repair}" for it in faults]
    told = listed(lines, _TOLD, "\n")
    hint = "Convert the model again, or download it from another place."
    if {fault.code for fault in faults} == {"ROW_TYPE"}:
        hint = faults[0].repair
    return NoError(
        f"{memory.name} cannot be mended by its metadata alone; nothing was written:\n{told}",
        hint,
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
    plan: RepairPlan,
    parts: Sequence[NewPart],
    output: Path,
    engine: str | None,
    known: Collection[str],
) -> GgufMemory:
    """Judge the files as they will be; told are faults that the source has, too, if there are any.

    Returns:
        The memory that they will hold, without faults.

    Raises:
        NoError: They have faults.
    """
    files = read_planned(parts, output if len(parts) > 1 else output.parent)
    name = plan.memory.name
    planned = memory_of(files, name) or GgufMemory(name, files, plan.dialect)
    if left := faults_of(planned, engine):
        raise _beyond(plan.memory, [it for it in left if it.code in known] or left)
    return planned


def _is_mended(fault: Fault, was: GgufMemory, planned: GgufMemory) -> bool:
    """Whether something was changed for a fault that is gone: an id that stays was not wrong."""
    fact = _OF_IDS.get(fault.code)
    return fact is None or was.integer(fact) != planned.integer(fact)


def _file(part: NewPart, link: bool, count: int) -> RepairedFile:
    origin: Origin = "linked" if link else "copied"
    is_new = count == 1 or not part.is_kept
    return RepairedFile(part.name, part.size_bytes, "written" if is_new else origin)

"""`verify_gguf`: whether a memory in GGUF is whole, and states the constants of its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engram.addressing.same_memory import check_tokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.gguf.constant_faults import ConstantJudge
from engram.checkpoints.gguf.file_faults import Fault, FileJudge
from engram.checkpoints.gguf.gguf_addresses import gguf_addresses, read_numbers
from engram.checkpoints.gguf.gguf_memory import GgufMemory, GgufTable, open_gguf
from engram.checkpoints.gguf.gguf_tokenizer import gguf_tokenizer, holds_tokenizer
from engram.checkpoints.gguf.loader_faults import LoaderJudge
from engram.checkpoints.read.source_tables import SourceTables, source_tables
from engram.checkpoints.verify.source_rows import compare_rows
from engram.checks import Check, Verdict, run_check, what_happened
from engram.errors import (
    ConfigError,
    CorruptFileError,
    EngramError,
    LayoutError,
    MismatchError,
    MissingFileError,
)
from engram.layouts.gguf_dialect import GgufDialect
from engram.layouts.gguf_dialects import dialects_of
from engram.storage.gguf_on_hub import HubGguf
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS

# By name of a check: its rule, and its detail when all is right.
_OF_FILES: dict[str, tuple[Callable[[FileJudge], Iterator[Fault]], str]] = {
    "header": (FileJudge.header, "tensors lie where it says, and the files reach to their ends"),
    "prefix": (FileJudge.prefix, "keys begin with the architecture"),
    "constants": (FileJudge.present, "none that the dialect has is missing"),
    "types": (FileJudge.types, "element types are those that its loaders take"),
    "layers": (FileJudge.layers, "those stated are those with tensors"),
    "tensors": (FileJudge.names, "named as the dialect names them"),
    "encoding": (FileJudge.encoding, "known, and as wide as the rows"),
    "values": (FileJudge.samples, "sampled rows are finite numbers"),
}
# The same of constants, with the fact that each needs.
_OF_CONSTANTS: dict[str, tuple[Callable[[ConstantJudge], Iterator[Fault]], str, str]] = {
    "rows": (ConstantJudge.rows, "primes", "heads fill the tables, offsets are running sums"),
    "primes": (ConstantJudge.sizes, "primes", "those that the rule of the layout finds"),
    "multipliers": (
        ConstantJudge.factors,
        "multipliers",
        "those that the layout's generator draws",
    ),
    "token map": (
        ConstantJudge.token_map,
        "token_map",
        "every token has an entry, and every id is used",
    ),
    "pad": (ConstantJudge.pad, "pad_id", "the release's, in the space of the dialect; or an id"),
    "end": (ConstantJudge.end, "eos_token_id", "the release's, if the memory is"),
    "kernel": (ConstantJudge.kernel, "kernel_size", "as many taps as the convolution has"),
}
# Faults with which engines that refuse nothing run without the memory, or without a part of it.
_OFF = ("CONST_MISSING", "LAYERS_INCOMPLETE", "NAME_MISMATCH", "PREFIX_WRONG")


@dataclass(frozen=True)
class GgufCheck(Check):
    """A check of a GGUF file.

    Attributes:
        faults: What failed: code, message and repair of each.
    """

    faults: tuple[dict[str, str], ...] = ()


def verify_gguf(
    place: Path | HubGguf,
    tokenizer: str | Path | None = None,
    engine: str | None = None,
    source: str | Path | None = None,
) -> Iterator[Check]:
    """Check a memory in GGUF files, from headers, constants and a few rows.

    Args:
        place: The file, any part of a split one, or a folder with one model; or one on the hub.
        tokenizer: Folder, tokenizer.json or hub id of the model's tokenizer; the one in the file
            when None.
        engine: Short name of an engine, whose loader is to read it; see `dialects_of`.
        source: Checkpoint or GGUF file to compare sampled rows with.

    Yields:
        Each check as it is done, `GgufCheck` for those with codes.

    Raises:
        MissingFileError: A file is not there.
        InputError: It has no memory in a dialect that is known; or the source has no table.
        UsageError: The engine is unknown, or the source is a checkpoint on the hub.
    """
    targets = () if engine is None else dialects_of(engine)
    tables = None if source is None else _opened_source(source)
    try:
        memory = open_gguf(place)
    except CorruptFileError as error:
        yield Check("header", False, what_happened(error))
        return
    yield Check("dialect", True, f"{memory.dialect.name}: {memory.dialect.source}")
    codes: set[str] = set()
    for check in (*_checks_of_files(memory), *_checks_of_constants(memory)):
        codes.update(fault["code"] for fault in check.faults)
        yield check
    if tokenizer is not None or (holds_tokenizer(memory) and not memory.is_table_alone):
        yield run_check("tokenizer", _check_tokenizer, memory, tokenizer)
    yield _memory(memory, codes)
    if engine is not None:
        yield _check_engine(memory, engine, targets)
    if isinstance(tables, Check):
        yield tables
    elif tables is not None:
        for table in memory.tables:
            yield _check_source(table, tables, str(source))


def _checks_of_files(memory: GgufMemory) -> Iterator[GgufCheck]:
    judge = FileJudge(memory)
    known = [table for table in memory.tables if table.encoding in ROW_ENCODINGS]
    for name, (rule, right) in _OF_FILES.items():
        if memory.is_table_alone and name not in ("header", "encoding", "values"):
            continue
        faults = tuple(rule(judge))
        if not faults and name == "encoding" and len(known) < len(memory.tables):
            others = [it.encoding for it in memory.tables if it.encoding not in ROW_ENCODINGS]
            yield GgufCheck(name, None, f"rows are {others[0]}, which is not decoded here")
        elif not faults and name in ("encoding", "values") and not known:
            yield GgufCheck(name, None, "the files hold no rows that can be decoded")
        else:
            yield _check(name, faults, right)


def _checks_of_constants(memory: GgufMemory) -> Iterator[GgufCheck]:
    judge = ConstantJudge(memory)
    for name, (rule, fact, right) in _OF_CONSTANTS.items():
        if fact not in memory.dialect.facts or memory.is_table_alone:
            continue
        if fact not in memory.stated_types:
            yield GgufCheck(name, None, f"the file does not state {fact}")
        elif not _is_readable(memory, fact):
            yield GgufCheck(name, None, f"{fact} cannot be read")
        else:
            yield _check(name, tuple(rule(judge)), right)


def _is_readable(memory: GgufMemory, fact: str) -> bool:
    if not memory.dialect.facts[fact].is_list:
        return memory.integer(fact) is not None
    try:
        return bool(read_numbers(memory, fact))
    except EngramError:
        return False


def _check(name: str, faults: tuple[Fault, ...], right: str) -> GgufCheck:
    told = [f"{fault.code}: {fault.message}. {fault.repair}" for fault in faults]
    detail = " ".join(told) if told else right
    return GgufCheck(name, not faults, detail, tuple(fault._asdict() for fault in faults))


def _memory(memory: GgufMemory, codes: set[str]) -> GgufCheck:
    """Say whether an engine that refuses nothing would run with the memory."""
    if memory.is_table_alone:
        return GgufCheck("memory", None, "a table alone: its constants are in another file")
    reasons = [code for code in _OFF if code in codes]
    if _is_cut(memory):
        reasons.append("HALF_DONE")
    if not reasons and memory.dialect.table is not None and not memory.tables:
        return GgufCheck("memory", None, "the table is not in these files: name it to the engine")
    if not reasons:
        return GgufCheck("memory", True, "the file has all that its engines run it with")
    fault = Fault(
        "SILENT_OFF",
        f"the memory, or a part of it, is off in this file: {', '.join(reasons)}",
        "Mend what failed above; an engine that loads the file as it is runs another model.",
    )
    return _check("memory", (fault,), "")


def _is_cut(memory: GgufMemory) -> bool:
    """Whether a tensor of the memory ends beyond its file, or was left half converted."""
    own = {tensor.name for table in memory.tables for tensor in table.tensors}
    own |= {tensor.name for parts in memory.weights.values() for tensor in parts.values()}
    cut = {problem.name for problem in memory.files.problems if problem.code == "HALF_DONE"}
    underway = any(table.encoding == "conversion_underway" for table in memory.tables)
    return underway or bool(own & cut)


def _check_engine(memory: GgufMemory, engine: str, targets: Sequence[GgufDialect]) -> GgufCheck:
    """Judge a file by the loader of an engine."""
    name = f"loads in {engine}"
    target = next((it for it in targets if it.layout == memory.dialect.layout), None)
    if target is None:
        return GgufCheck(name, None, f"what it takes of layout {memory.layout.name} is not known")
    faults = tuple(LoaderJudge(memory, target).faults())
    return _check(name, faults, f"it has the names and types of {target.name}")


def _opened_source(source: str | Path) -> SourceTables | GgufCheck:
    """Open a source; for one that cannot be read, return the check that is not done for it."""
    try:
        return source_tables(source)
    except (ConfigError, CorruptFileError, LayoutError, MismatchError) as error:
        return GgufCheck("source", None, _with_hint(error))


def _with_hint(error: EngramError) -> str:
    return f"{what_happened(error)} {error.hint or ''}".rstrip()


def _check_source(table: GgufTable, tables: SourceTables, source: str) -> GgufCheck:
    """Compare sampled rows of a table with those of the checkpoint that it was made from."""
    name = "source" if table.layer_id is None else f"source layer {table.layer_id}"
    right = tables.get(table.layer_id)
    if right is None and len(tables) == 1 and (table.layer_id is None or None in tables):
        (right,) = tables.values()
    if right is None:
        return GgufCheck(name, None, f"{source} holds no table of this layer")
    try:
        faults, detail = compare_rows(table, right())
    except EngramError as error:
        return GgufCheck(name, None, _with_hint(error))
    return _check(name, faults, f"{detail} {source}")


def _check_tokenizer(memory: GgufMemory, tokenizer: str | Path | None) -> Verdict:
    try:
        addresses = gguf_addresses(memory)
    except MissingFileError as error:
        return None, what_happened(error)
    if addresses.map_sha256 is None:
        return None, "this layout hashes token ids themselves"
    known = memory.layout.known_maps.values()
    if tokenizer is None and addresses.map_sha256 in known:  # building one takes some seconds
        return None, "the token map is the release's; -t TOKENIZER compares it with a tokenizer"
    try:
        file = gguf_tokenizer(memory) if tokenizer is None else load_tokenizer(tokenizer)
    except LayoutError as error:
        return None, _with_hint(error)
    check_tokenizer(addresses, file)
    return True, f"{file.name} gives the token map of the file"


def faults_of(memory: GgufMemory, engine: str | None = None) -> list[Fault]:
    """Find the faults of a file, as `verify_gguf` names them.

    Args:
        memory: The file.
        engine: See `verify_gguf`.

    Raises:
        UsageError: The engine is unknown.
    """
    checks = [*_checks_of_files(memory), *_checks_of_constants(memory)]
    if engine is not None:
        checks.append(_check_engine(memory, engine, dialects_of(engine)))
    return [Fault(**fault) for check in checks for fault in check.faults]

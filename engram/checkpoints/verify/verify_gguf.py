"""`verify_gguf`: whether a memory in GGUF is whole, and states the constants of its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engram.addressing.same_memory import check_tokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.gguf.gguf_addresses import gguf_addresses
from engram.checkpoints.gguf.gguf_faults import Fault, Judge
from engram.checkpoints.gguf.gguf_memory import GgufMemory, open_gguf
from engram.checks import Check, Verdict, run_check, what_happened
from engram.errors import CorruptFileError, MissingFileError

# By name of a check: its rule, the fact that it needs, and its detail when all is right.
_RULES: dict[str, tuple[Callable[[Judge], Iterator[Fault]], str, str]] = {
    "header": (Judge.header, "", "tensors lie where it says, and the files reach to their ends"),
    "prefix": (Judge.prefix, "", "keys begin with the architecture"),
    "constants": (Judge.present, "", "none that the dialect has is missing"),
    "types": (Judge.types, "", "element types are those that its loaders take"),
    "layers": (Judge.layers, "layer_ids", "those stated are those with tensors"),
    "tensors": (Judge.names, "", "named as the dialect names them"),
    "rows": (Judge.rows, "primes", "heads fill the tables, offsets are running sums"),
    "primes": (Judge.sizes, "primes", "those that the rule of the layout finds"),
    "multipliers": (Judge.factors, "multipliers", "those that the layout's generator draws"),
    "token map": (Judge.token_map, "token_map", "every token has an entry, and every id is used"),
    "pad": (Judge.pad, "pad_id", "the release's, in the space of the dialect"),
    "end": (Judge.end, "eos_token_id", "the release's"),
    "encoding": (Judge.encoding, "", "known, and as wide as the rows"),
    "values": (Judge.samples, "", "sampled rows are finite numbers"),
}
# Faults with which engines that refuse nothing run without the memory, or without a part of it.
_OFF = ("CONST_MISSING", "LAYERS_INCOMPLETE", "NAME_MISMATCH", "PREFIX_WRONG", "HALF_DONE")


@dataclass(frozen=True)
class GgufCheck(Check):
    """A check of a GGUF file.

    Attributes:
        faults: What failed: code, message and repair of each.
    """

    faults: tuple[dict[str, str], ...] = ()


def verify_gguf(path: Path, tokenizer: str | Path | None = None) -> Iterator[Check]:
    """Check a memory in GGUF files, from headers, constants and a few rows.

    Args:
        path: The file, any part of a split one, or a folder with one model.
        tokenizer: Folder, tokenizer.json or hub id of the model's tokenizer.

    Yields:
        Each check as it is done, `GgufCheck` for those with codes.

    Raises:
        MissingFileError: A file is not there.
        InputError: It has no memory in a dialect that is known.
    """
    try:
        memory = open_gguf(path)
    except CorruptFileError as error:
        yield Check("header", False, what_happened(error))
        return
    yield Check("dialect", True, f"{memory.dialect.name}: {memory.dialect.source}")
    judge, codes = Judge(memory), set()
    for name, (rule, fact, right) in _RULES.items():
        if fact and fact not in memory.dialect.facts:
            continue
        if fact and fact not in memory.stated_types:
            yield GgufCheck(name, None, f"the file does not state {fact}")
            continue
        faults = tuple(rule(judge))
        codes.update(fault.code for fault in faults)
        yield _check(name, faults, right)
    if tokenizer is not None:
        yield run_check("tokenizer", _check_tokenizer, memory, tokenizer)
    yield _memory(memory, codes)


def _check(name: str, faults: tuple[Fault, ...], right: str) -> GgufCheck:
    told = [f"{fault.code}: {fault.message}. {fault.repair}" for fault in faults]
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    detail = f"{told[0]}{more}" if told else right
    return GgufCheck(name, not faults, detail, tuple(fault._asdict() for fault in faults))


def _memory(memory: GgufMemory, codes: set[str]) -> GgufCheck:
    """Say whether an engine that refuses nothing would run with the memory."""
    reasons = [code for code in _OFF if code in codes]
    if memory.dialect.table is not None and not memory.tables:
        reasons.append("it holds no table")
    if not reasons:
        return GgufCheck("memory", True, "the file has all that its engines run it with")
    fault = Fault(
        "SILENT_OFF",
        f"the memory, or a part of it, is off in this file: {', '.join(reasons)}",
        "Mend what failed above; an engine that loads the file as it is runs another model.",
    )
    return _check("memory", (fault,), "")


def _check_tokenizer(memory: GgufMemory, tokenizer: str | Path) -> Verdict:
    try:
        addresses = gguf_addresses(memory)
    except MissingFileError as error:
        return None, what_happened(error)
    file = load_tokenizer(tokenizer)
    if addresses.map_sha256 is None:
        return None, "this layout hashes token ids themselves"
    check_tokenizer(addresses, file)
    return True, f"{file.name} gives the token map of the file"

"""`FileJudge`: faults of a memory's files and keys in GGUF, each with its code and its repair.

Sources: public threads and loaders of the engines. Codes are stable, for programs and reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engram.checkpoints.gguf.gguf_memory import GgufMemory, GgufTable
from engram.checkpoints.gguf.gguf_release import RELEASES, is_of_release
from engram.checkpoints.gguf.gguf_rows import GgufRows, telling_rows
from engram.errors import CorruptFileError, LayoutError
from engram.layouts.gguf_dialects import DIALECTS
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS
from engram.units import listed

_NAMED = 4
# Facts that are sizes, and so not zero.
_SIZES = ("orders", "heads", "row_width", "compressed_vocab_size", "size_base", "kernel_size")


class Fault(NamedTuple):
    """Something that an engine refuses, or that makes it read wrong rows.

    Attributes:
        code: Name of the failure.
        message: What is wrong, with the value.
        repair: What mends it.
    """

    code: str
    message: str
    repair: str


@dataclass(frozen=True, eq=False)
class FileJudge:
    """Compares a file with what loaders of its dialect take.

    Attributes:
        memory: The file.
    """

    memory: GgufMemory

    def header(self) -> Iterator[Fault]:
        """Faults of the header itself: cut files, types, places of tensors."""
        again = "Download or convert the file again."
        for problem in self.memory.files.problems:
            if problem.code != "UNKNOWN_TYPE":  # forks have types of their own
                yield Fault(problem.code, problem.message, again)

    def prefix(self) -> Iterator[Fault]:
        """Keys that begin with something other than the architecture."""
        architecture = self.memory.architecture
        for prefix in self.memory.prefixes:
            if prefix != architecture:
                yield Fault(
                    "PREFIX_WRONG",
                    f"keys of the memory begin with {prefix}., and general.architecture is "
                    f"{architecture}",
                    f"Rename {prefix}.* of the memory to {architecture}.*",
                )

    def present(self) -> Iterator[Fault]:
        """Constants that are missing, lists without entries, and sizes of zero."""
        memory, prefix = self.memory, self.memory.architecture
        names = [
            fact.name if fact.is_tensor else f"{prefix}.{fact.name} ({fact.kinds[0]})"
            for fact in memory.missing.values()
        ]
        stated = {fact: memory.value(fact) for fact in memory.dialect.facts}
        names += [
            f"entries of {value.key}"
            for value in stated.values()
            if value is not None and value.is_array and not value.count
        ]
        for fact, value in stated.items():
            if value is not None and fact in _SIZES and memory.integer(fact) == 0:
                yield Fault("CONST_WRONG", f"{value.key} is 0", "Write the size of the memory.")
        if not names:
            return
        repair = "Write those that the memory was trained with into the file."
        if is_of_release(self.memory):
            source = RELEASES[self.memory.layout.name]
            repair = (
                f"Write them into the file; engram constants {source} -o FOLDER has the values."
            )
        yield Fault("CONST_MISSING", f"it lacks {', '.join(names)}", repair)

    def types(self) -> Iterator[Fault]:
        """Element types, and lists in place of numbers, that the dialect's loaders do not take."""
        for fact, place in self.memory.dialect.facts.items():
            value, tensor = self.memory.value(fact), self.memory.tensor(fact)
            wanted = f"{' or '.join(place.kinds)}{'[]' if place.is_list else ''}"
            if value is not None:
                found, name = value.described(), value.key
                if value.kind in place.kinds and value.is_array == place.is_list:
                    continue
                code = "PRIMES_TYPE" if fact == "primes" and value.is_array else "TYPE_WRONG"
                if value.kind == "int64" and value.is_array:
                    code = "TYPE_INT64"
            elif tensor is not None:
                kind = tensor.type_name
                if kind in [f"I{it.removeprefix('int')}" for it in place.kinds]:
                    continue
                found, name = kind, tensor.name
                code = "FLOAT_CAST" if kind in ("F32", "F16", "BF16", "F64") else "TYPE_WRONG"
            else:
                continue
            yield Fault(
                code,
                f"{name} is {found}, and loaders of {self.memory.dialect.name} take {wanted}",
                f"Write it as {place.kinds[0]}{'[]' if place.is_list else ''}.",
            )

    def layers(self) -> Iterator[Fault]:
        """Layers that are stated, against those with tensors."""
        stated, found = self.memory.integers("layer_ids"), self.memory.tensor_layers
        if stated is None or not found or sorted(stated) == list(found):
            return
        if [layer - 1 for layer in sorted(stated)] == list(found):
            yield Fault(
                "LAYER_BASE",
                f"layers {stated} are stated, and tensors are of {list(found)}: layers count from "
                "0 in GGUF, and from 1 in the config that it was made from",
                f"Write {list(found)}.",
            )
            return
        yield Fault(
            "LAYERS_INCOMPLETE",
            f"layers {stated} are stated, and there are tensors of {list(found)}",
            f"Write {list(found)}, with the constants of each.",
        )

    def names(self) -> Iterator[Fault]:
        """Tensors under names of other dialects, or under none."""
        dialect, tensors = self.memory.dialect, self.memory.files.tensors
        for layer_id in self.memory.layer_ids:
            for part, template in dialect.weights.items():
                name = template.replace("{layer}", str(layer_id))
                if name in tensors:
                    continue
                others = {
                    it.weights[part].replace("{layer}", str(layer_id))
                    for it in DIALECTS
                    if it.layout == dialect.layout and part in it.weights
                }
                there = sorted(others & tensors.keys())
                if there:
                    yield Fault(
                        "NAME_MISMATCH",
                        f"{there[0]} is what {dialect.name} calls {name}",
                        f"Rename it to {name}.",
                    )
                elif dialect.table is not None and self.memory.tables:
                    yield Fault(
                        "TENSOR_MISSING", f"it lacks {name}", "Convert the checkpoint again."
                    )

    def encoding(self) -> Iterator[Fault]:
        """Encodings of rows, and widths that do not go with them."""
        for table in self.memory.tables:
            if table.encoding == "conversion_underway":
                yield Fault(
                    "HALF_DONE",
                    f"{table.values.name}: its encoding is conversion_underway",
                    "Finish the conversion, or download the file again.",
                )
                continue
            known, bytes_of_row = ROW_ENCODINGS.get(table.encoding), table.values.row_bytes
            if known is None and table.is_bytes:
                yield Fault(
                    "ENCODING_UNKNOWN",
                    f"{table.values.name}: rows are stored as {table.encoding}",
                    "State the encoding of rows that are plain bytes, as engram.encoding.",
                )
            elif (
                known is not None
                and known.is_row
                and len(table.decoded) == 1
                and bytes_of_row != known.block_bytes
            ):
                yield Fault(
                    "ENCODING_WIDTH",
                    f"{table.values.name}: rows of {table.encoding} have {known.block_bytes} "
                    f"bytes, these {bytes_of_row}",
                    "State the encoding that the rows have.",
                )
        yield from self.widths()

    def widths(self) -> Iterator[Fault]:
        """The width that is stated, against that of the rows."""
        stated = self.memory.integer("row_width")
        for table in self.memory.tables:
            if None not in (stated, table.width) and table.width != stated:
                yield Fault(
                    "ENCODING_WIDTH",
                    f"rows of {table.values.name} have {table.width} values, and {stated} are "
                    "stated",
                    "State the width that the rows have.",
                )

    def samples(self) -> Iterator[Fault]:
        """Rows at places where readers go wrong: all their values are finite numbers."""
        for table in self.memory.tables:
            if table.encoding not in ROW_ENCODINGS:
                continue
            rows = telling_rows(table.rows, table.values.row_bytes or 1)
            there = [row for row in rows if _is_there(table, row)]  # others are told as HALF_DONE
            wrong = [str(row) for row in there if not _is_finite(table, row)]
            if wrong:
                yield Fault(
                    "ROW_VALUES",
                    f"{table.values.name}: row {listed(wrong, _NAMED)} cannot be read as "
                    f"{table.encoding}",
                    "Convert the rows again, or state their encoding.",
                )


def _is_there(table: GgufTable, row: int) -> bool:
    """Whether the files reach to the end of a row."""
    return all(
        tensor.start + (row + 1) * (tensor.row_bytes or 0) <= tensor.source.size
        for tensor in table.decoded
    )


def _is_finite(table: GgufTable, row: int) -> bool:
    try:
        return bool(np.isfinite(GgufRows(table).read_rows(np.array([row]))).all())
    except (CorruptFileError, LayoutError):
        return False

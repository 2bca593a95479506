"""`LoaderJudge`: a file against the loader of an engine that may read another dialect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engram.checkpoints.gguf.file_faults import Fault, FileJudge
from engram.checkpoints.gguf.gguf_addresses import read_numbers
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.errors import EngramError
from engram.layouts.gguf_dialect import GgufDialect
from engram.layouts.gguf_dialects import WRITTEN_DIALECTS
from engram.storage.gguf_values import GgufValue

# Sizes that ds4 has at compile time: layers, the highest order, heads of an order.
_DS4 = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class LoaderJudge:
    """Compares a file with what the loader of an engine asks for.

    Attributes:
        memory: The file, in its own dialect.
        dialect: The dialect that the engine reads.
    """

    memory: GgufMemory
    dialect: GgufDialect

    def faults(self) -> Iterator[Fault]:
        """Yield all that the loader refuses, or takes for something else."""
        # The same files, read by the names of the other dialect.
        seen = replace(self.memory, dialect=self.dialect)
        if self.memory.architecture not in self.dialect.architectures:
            yield Fault(
                "ARCHITECTURE",
                f"general.architecture is {self.memory.architecture}",
                f"Write {self.dialect.architectures[0]}, and keys with that prefix.",
            )
        yield from self._keys(seen)
        judge = FileJudge(seen)
        yield from judge.prefix()
        yield from judge.types()
        yield from judge.names()
        yield from self._tables()
        if "ds4" in self.dialect.engines:
            yield from self._sizes_of_ds4()

    def _keys(self, seen: GgufMemory) -> Iterator[Fault]:
        """Constants under other names, and those that are not there at all."""
        stated, own = seen.stated_types, self.memory.stated_types
        prefix = self.dialect.architectures[0]
        for fact, place in self.dialect.facts.items():
            if fact in stated:
                continue
            name = place.name if place.is_tensor else f"{prefix}.{place.name}"
            kind = " or ".join(place.kinds)
            there = self.memory.value(fact) or self.memory.tensor(fact)
            if there is None or fact not in own:
                holds_bytes = any(table.is_bytes for table in self.memory.tables)
                if fact in seen.missing or (fact == "encoding" and holds_bytes):
                    yield Fault("CONST_MISSING", f"it lacks {name} ({kind})", "Write it.")
                continue
            called = there.key if isinstance(there, GgufValue) else there.name
            yield Fault(
                "NAME_MISMATCH",
                f"{called} ({own[fact]}) is what it reads as {name} ({kind})",
                f"Write {name} as {place.kinds[0]}.",
            )
        if "pad_id" in own and "pad_id" not in stated and self._moves_the_pad():
            spaces = ("compressed ids", "token ids")
            yield Fault(
                "PAD_SPACE",
                f"the file states the pad among {spaces[self.memory.dialect.pad_is_raw]}, and it "
                f"is read among {spaces[self.dialect.pad_is_raw]}",
                "Map it with the token map, or back.",
            )

    def _tables(self) -> Iterator[Fault]:
        """Tables under other names, or stored in another way."""
        template = self.dialect.table
        if template is None:
            return
        if not self.memory.tables:
            lacks = f"the files hold no table, which {self.dialect.name} has in them"
            yield Fault("TENSOR_MISSING", lacks, "Convert the checkpoint again.")
        for table in self.memory.tables:
            name = template.replace("{layer}", str(table.layer_id))
            values = table.values
            if values.name != name:
                yield Fault("NAME_MISMATCH", f"{values.name} is what it calls {name}", "Rename it.")
            encodings = self.dialect.row_encodings
            # Without a list of encodings it takes all but plain bytes, unless scales lie apart.
            bytes_alone = table.is_bytes and (table.scales is None or self.dialect.scales is None)
            if table.encoding not in encodings if encodings else bytes_alone:
                wanted = " or ".join(encodings) or "a ggml type of values"
                repair = "Convert the checkpoint again."
                if self.dialect.name in WRITTEN_DIALECTS:
                    command = f"engram convert {self.memory.name} --to {self.dialect.name}"
                    repair = f"Convert them: {command} -o OUTPUT"
                yield Fault(
                    "ROW_TYPE",
                    f"rows of {values.name} are {table.encoding}, and it takes {wanted}",
                    repair,
                )
            elif self.dialect.scales is not None and table.scales is None:
                scales = self.dialect.scales.replace("{layer}", str(table.layer_id))
                yield Fault("TENSOR_MISSING", f"it lacks {scales}", "Convert the checkpoint again.")
        yield from FileJudge(self.memory).widths()

    def _moves_the_pad(self) -> bool:
        """Whether the pad is read in another space than it is stated in, as another id."""
        if self.memory.dialect.pad_is_raw == self.dialect.pad_is_raw:
            return False
        pad = self.memory.integer("pad_id") or 0
        try:
            token_map = read_numbers(self.memory, "token_map")
        except EngramError:
            return True
        return not (0 <= pad < len(token_map) and token_map[pad] == pad)

    def _sizes_of_ds4(self) -> Iterator[Fault]:
        """Sizes that are fixed in ds4, and its bound of the multipliers."""
        memory = self.memory
        sizes = (len(memory.layer_ids), memory.orders, memory.heads)
        if sizes != _DS4:
            yield Fault(
                "SIZES_FIXED",
                f"layers, orders and heads are {sizes}, and ds4 is compiled for {_DS4}",
                "Compile it for these sizes.",
            )
        try:
            factors, token_map = (read_numbers(memory, it) for it in ("multipliers", "token_map"))
        except EngramError:
            return
        bound = (2**63 - 1) // max(1, max(token_map, default=0) + 1)
        wrong = [factor for factor in factors if factor % 2 == 0 or factor > bound]
        if wrong:
            yield Fault(
                "CONST_WRONG",
                f"multiplier {wrong[0]} is even, or above {bound}",
                "Write the multipliers that the memory was trained with.",
            )

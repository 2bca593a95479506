"""`inspect_gguf`: contents of a GGUF file with a memory, from its headers alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

from engram.checkpoints.gguf.gguf_memory import GgufMemory, GgufTable, open_gguf
from engram.sizing.pages import PAGE_BYTES, RowPages, row_pages
from engram.sizing.weights import Contents, Group, Kind, Weights
from engram.storage.gguf_headers import GgufTensor
from engram.storage.gguf_on_hub import HubGguf
from engram.units import listed


def inspect_gguf(place: Path | HubGguf) -> Contents:
    """Count what GGUF files hold; nothing of a tensor is read.

    Args:
        place: The file, any part of a split one, or a folder with one model; or one on the hub.

    Raises:
        MissingFileError: A file is not there, or cannot be read.
        CorruptFileError: A header is damaged.
        InputError: It has no memory in a dialect that is known.
    """
    memory = open_gguf(place)
    counted = _Counted(memory)
    return Contents(
        kind="gguf",
        layout=memory.layout.name,
        title=memory.layout.title,
        config=None,
        hash_rows=counted.hash_rows,
        weights=counted.weights,
        notes=counted.notes,
        gguf=_described(memory, counted.weights),
    )


class _Counted:
    """Sorts the tensors of a file into parts.

    Args:
        memory: The memory.
    """

    def __init__(self, memory: GgufMemory) -> None:
        self._memory = memory

    @property
    def hash_rows(self) -> dict[int | None, int]:
        """Rows that ids can reach, by layer; those of the table where nothing states them."""
        rows: dict[int | None, int] = {table.layer_id: table.rows for table in self._memory.tables}
        for layer_id in self._memory.layer_ids:
            reached = self._memory.hash_rows(layer_id)
            if reached is not None:
                rows[layer_id] = reached
        return rows

    @cached_property
    def weights(self) -> tuple[Weights, ...]:
        """The parts: of each layer, the constants, and all the rest as the base."""
        memory = self._memory
        constants = [it for it in map(memory.tensor, memory.dialect.facts) if it is not None]
        own = {tensor.name for tensor in constants}
        parts = []
        layer_ids = [*(table.layer_id for table in memory.tables), *memory.weights]
        for layer_id in sorted(set(layer_ids), key=lambda it: -1 if it is None else it):
            for table in memory.tables:
                if table.layer_id == layer_id:
                    parts.append(self._table(table))
                    own.update(tensor.name for tensor in table.tensors)
            dense = {} if layer_id is None else memory.weights.get(layer_id, {})
            for name, tensor in dense.items():
                part = f"layers.{layer_id}.{name.removesuffix('.weight')}"
                parts.append(self._weights(part, "dense", [tensor], layer_id))
                own.add(tensor.name)
        parts.append(self._constants(constants))
        rest = [tensor for name, tensor in memory.files.tensors.items() if name not in own]
        return (*parts, *([self._weights("base", "base", rest, None)] if rest else []))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that belong to the numbers."""
        memory, found = self._memory, ["bytes as the headers of GGUF say"]
        if not memory.tables:
            found.append("the files hold no table: this dialect, or a split, keeps it elsewhere")
        tensors = memory.files.tensors.values()
        if unknown := [tensor.name for tensor in tensors if tensor.data_bytes is None]:
            found.append(
                f"{listed(unknown, 3)}: of a type that ggml does not know, so that its bytes "
                "are those up to the next tensor"
            )
        return tuple(found)

    def _table(self, table: GgufTable) -> Weights:
        sizes = [self._bytes(tensor) for tensor in table.tensors]
        pages: list[RowPages] = [
            row_pages(tensor.row_bytes, table.rows, tensor.start)
            for tensor in table.decoded
            if tensor.row_bytes
        ]
        return Weights(
            part=f"layers.{table.layer_id}.table",
            group="table",
            params=table.rows * (table.width or 0),
            size_bytes=sum(size for size, _ in sizes),
            dtype=table.encoding,
            kind=_kind(sizes),
            rows=table.rows,
            layer_id=table.layer_id,
            reads=self._memory.columns or 0,
            pages=reduce(add, pages) if len(pages) == len(table.decoded) else None,
        )

    def _constants(self, tensors: Sequence[GgufTensor]) -> Weights:
        """Count keys and tensors with constants, which have no parameters."""
        memory = self._memory
        values = (memory.value(fact) for fact in memory.dialect.facts)
        keys = sum(value.stop - value.start for value in values if value is not None)
        sizes = [self._bytes(tensor) for tensor in tensors]
        return Weights(
            part="constants",
            group="constants",
            params=0,
            size_bytes=keys + sum(size for size, _ in sizes),
            dtype=None,
            kind=_kind(sizes),
        )

    def _weights(
        self, part: str, group: Group, tensors: Sequence[GgufTensor], layer_id: int | None
    ) -> Weights:
        sizes = [self._bytes(tensor) for tensor in tensors]
        types = {tensor.type_name for tensor in tensors}
        return Weights(
            part=part,
            group=group,
            params=sum(tensor.size for tensor in tensors),
            size_bytes=sum(size for size, _ in sizes),
            dtype=types.pop() if len(types) == 1 else None,
            kind=_kind(sizes),
            layer_id=layer_id,
        )

    def _bytes(self, tensor: GgufTensor) -> tuple[int, Kind]:
        """Bytes of a tensor; of an unknown type those up to the next one, with the padding."""
        if tensor.data_bytes is not None:
            return tensor.data_bytes, "exact"
        starts, end = self._places[str(tensor.path)]
        after = bisect_right(starts, tensor.start)
        return (starts[after] if after < len(starts) else end) - tensor.start, "estimated"

    @cached_property
    def _places(self) -> Mapping[str, tuple[list[int], int]]:
        """By file: the starts of its tensors in order, and its end."""
        return {
            str(part.path): (
                sorted(tensor.start for tensor in part.tensors.values()),
                part.file_bytes,
            )
            for part in self._memory.files.parts
        }


def _kind(sizes: Iterable[tuple[int, Kind]]) -> Kind:
    return "exact" if all(kind == "exact" for _, kind in sizes) else "estimated"


def _described(memory: GgufMemory, weights: Sequence[Weights]) -> dict[str, Any]:
    """Tell what the files say about the memory, for ``--json``."""
    parts, dialect = memory.files.parts, memory.dialect
    tables = [part for part in weights if part.group == "table"]
    gathered = sum(part.size_bytes for part in tables)
    return {
        "dialect": dialect.name,
        "dialect_source": dialect.source,
        "architecture": memory.architecture,
        "prefixes": list(memory.prefixes),
        "version": parts[0].version,
        "alignment": parts[0].alignment,
        "files": [
            {"file": part.path.name, "bytes": part.file_bytes, "header_bytes": part.header_bytes}
            for part in parts
        ],
        "layer_ids": list(memory.layer_ids),
        "orders": memory.orders,
        "heads": memory.heads,
        "pad_space": "raw" if dialect.pad_is_raw else "compressed",
        "types": memory.stated_types,
        "missing": [
            {"constant": name, "place": fact.name, "kind": fact.kinds[0]}
            for name, fact in memory.missing.items()
        ],
        "tables": [_table(table) for table in memory.tables],
        "gathered_bytes": gathered,
        "resident_bytes": sum(part.size_bytes for part in weights) - gathered,
        "problems": [
            {"code": it.code, "name": it.name, "message": it.message}
            for it in memory.files.problems
        ],
    }


def _table(table: GgufTable) -> dict[str, Any]:
    values = table.values
    return {
        "layer_id": table.layer_id,
        "tensor": values.name,
        "file": values.path.name,
        "start": values.start,
        "page_aligned": values.start % PAGE_BYTES == 0,
        "encoding": table.encoding,
        "rows": table.rows,
        "width": table.width,
        "row_bytes": sum(it.row_bytes for it in table.decoded if it.row_bytes is not None) or None,
        "scales": None if table.scales is None else table.scales.name,
    }

"""The weights of a memory and its base model, in parts: parameters, bytes, and rows read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, Literal

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import TableDtype
from engram.sizing.counts import MemoryCount
from engram.sizing.pages import PAGE_BYTES, RowPages, row_pages
from engram.storage.dtypes import TABLE_DTYPES, dtype_name, row_bytes

Kind = Literal["exact", "nominal", "estimated"]
Group = Literal["table", "dense", "constants", "base"]
# Their names for people.
GROUP_NAMES: Mapping[Group, str] = {
    "table": "tables",
    "dense": "dense parts",
    "constants": "constants",
    "base": "base",
}

BASE_DTYPE = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One part of a model's weights.

    Attributes:
        part: Name of the part, such as ``layers.1.table``.
        group: Tables, the modules around them, constants (buffers: no parameters), or the base.
        params: Parameters.
        size_bytes: Bytes of one copy.
        dtype: dtype of the values; None for a mixture.
        kind: How exactly the bytes are known.
        rows: Rows of a table, padding included; 0 for other parts.
        layer_id: The layer of the part; None for the base, and for parts without a layer.
        reads: Rows of a table that one token reads.
        pages: Pages touched by reading a row of a table from disk, with its optimiser state where
            it is trained there; None for other parts.
    """

    part: str
    group: Group
    params: int
    size_bytes: int
    dtype: str | None
    kind: Kind
    rows: int = 0
    layer_id: int | None = None
    reads: int = 0
    pages: RowPages | None = None

    def cast(self, dtype: str) -> Weights:
        """Return the part in another dtype; tables in quantised dtypes include their scales."""
        name = dtype_name(dtype)
        if not self.rows:
            return replace(self, dtype=name, size_bytes=self.params * dtype_bytes(name))
        columns = self.params // self.rows
        row, values = row_bytes(columns, name), columns * dtype_bytes(name)
        pages = row_pages(values)
        if row > values:  # the scales are a separate tensor
            pages = pages + row_pages(row - values)
        return replace(self, dtype=name, size_bytes=self.rows * row, pages=pages)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of a checkpoint, or of one that a config describes.

    Attributes:
        kind: config, attached, adapter, released, gguf or base.
        layout: Name of the layout; None for a base model without a memory.
        title: The layout or family in one line.
        config: The memory in our terms; None for a kind of memory that we do not run.
        hash_rows: Rows that ids can reach, by layer in hash order; None is the layer of tables
            that belong to no layer alone.
        weights: Parts of the memory by layer, and the base as one, if it is known.
        notes: What should be said with the numbers.
        backbone: The base model, if its config is known.
        gguf: What GGUF files say of their memory, in the terms of ``--json``; None for other
            contents.
    """

    kind: Literal["config", "attached", "adapter", "released", "gguf", "base"]
    layout: str | None
    title: str
    config: EngramConfig | None
    hash_rows: Mapping[int | None, int]
    weights: tuple[Weights, ...]
    notes: tuple[str, ...]
    backbone: Backbone | None = None
    gguf: Mapping[str, Any] | None = None


def dtype_bytes(dtype: str) -> int:
    """Return the bytes of one value of a dtype, without scales."""
    return TABLE_DTYPES[dtype_name(dtype)].bits // 8


def weigh(
    counts: MemoryCount, backbone: Backbone | None = None, dtype: str | None = None
) -> tuple[TableDtype, list[Weights]]:
    """Weigh a memory that is not built yet, as `size` and `report` do.

    Args:
        counts: Its parameter counts.
        backbone: Its base model; None if that is unknown, or not to be counted.
        dtype: dtype of the tables; by default the config's, else the base's.

    Returns:
        The dtype of the tables; and the parts: of the memory, then the base.
    """
    chosen = counts.config.stored_dtype(None if backbone is None else backbone.float_dtype, dtype)
    base = [] if backbone is None else [base_weights(backbone)]
    return chosen, [*config_weights(counts, chosen), *base]


def config_weights(counts: MemoryCount, dtype: TableDtype) -> list[Weights]:
    """Return the weights of a memory that is not built yet.

    Args:
        counts: Its parameter counts.
        dtype: dtype of the stored tables; the other parts have that of `TableDtype.around`.
    """
    parts = []
    for layer in counts.layers:
        table = Weights(
            part=f"layers.{layer.layer_id}.table",
            group="table",
            params=layer.table_params,
            size_bytes=0,
            dtype=None,
            kind="exact",
            rows=layer.rows,
            layer_id=layer.layer_id,
            reads=counts.config.n_columns,
        )
        dense = (
            Weights(
                part=f"layers.{layer.layer_id}.{name}",
                group="dense",
                params=params,
                size_bytes=0,
                dtype=None,
                kind="exact" if dtype.around == dtype.name else "nominal",
                layer_id=layer.layer_id,
            )
            for name, params in layer.dense_parts.items()
        )
        parts += [table.cast(dtype.name), *(part.cast(dtype.around) for part in dense)]
        parts.append(_constants(counts.config, layer.layer_id, layer is counts.layers[0]))
    return parts


def _constants(config: EngramConfig, layer_id: int, is_first: bool) -> Weights:
    """Return a layer's buffers: the heads' offsets, and in the first the compressed vocabulary."""
    compresses = is_first and config.rules.hashes == "compressed"
    return Weights(
        part=f"layers.{layer_id}.constants",
        group="constants",
        params=0,
        size_bytes=8 * config.n_columns + (4 * config.engram_vocab_size if compresses else 0),
        dtype=None,
        kind="exact",
        layer_id=layer_id,
    )


def base_weights(backbone: Backbone) -> Weights:
    """Return the weights of a base model, in the dtype of its config, or bfloat16."""
    return Weights(
        part="base", group="base", params=backbone.params, size_bytes=0, dtype=None, kind="nominal"
    ).cast(backbone.dtype or BASE_DTYPE)


def given_base(size_bytes: int, params: int) -> Weights:
    """Return the weights of a base whose size was given.

    Args:
        size_bytes: That size.
        params: Its parameters; 0 if they are not known.
    """
    return Weights(
        part="base", group="base", params=params, size_bytes=size_bytes, dtype=None, kind="nominal"
    )


def base_alone(backbone: Backbone, weights: Weights) -> Contents:
    """Return the contents of a base model without a memory.

    Args:
        backbone: Its facts.
        weights: Its weights.
    """
    layers = f"{backbone.num_layers} layers of width {backbone.hidden_size}"
    return Contents(
        kind="base",
        layout=None,
        title=f"{backbone.model_type}, {layers}",
        config=None,
        hash_rows={},
        weights=(weights,),
        notes=(),
        backbone=backbone,
    )


def total_of(weights: Sequence[Weights], group: Group | None = None) -> tuple[int, int]:
    """Return the parameters and bytes of one group, or of the memory: all but the base."""
    parts = [
        part for part in weights if part.group == group or (group is None and part.group != "base")
    ]
    return sum(part.params for part in parts), sum(part.size_bytes for part in parts)


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The reads of one token from all tables.

    Attributes:
        rows: Table rows.
        size_bytes: Bytes of those rows, scales included.
        pages: Disk pages and separate reads; None if there are no tables.
    """

    rows: int
    size_bytes: int
    pages: RowPages | None

    def rate(self, tokens_per_second: int) -> dict[str, int]:
        """Return the load on the tables' place at a speed, without any cache of frequent rows.

        Args:
            tokens_per_second: The speed.

        Returns:
            By the second, for JSON: rows; separate disk reads (values and scales of a row are
            two); bytes of rows; and bytes of whole disk pages, on average.
        """
        reads, pages = (self.pages.reads, self.pages.mean) if self.pages else (self.rows, 0)
        return {
            "tokens_per_second": tokens_per_second,
            "rows_per_second": tokens_per_second * self.rows,
            "iops": tokens_per_second * reads,
            "bytes_per_second": tokens_per_second * self.size_bytes,
            "disk_bytes_per_second": round(tokens_per_second * PAGE_BYTES * pages),
        }


def reads_of(weights: Sequence[Weights]) -> Reads:
    """Add up the reads of one token.

    Pages are counted row by row: rows of one token that share a page count twice.
    """
    tables = [part for part in weights if part.group == "table" and part.rows]
    pages = [part.pages.times(part.reads) for part in tables if part.pages is not None]
    return Reads(
        rows=sum(part.reads for part in tables),
        size_bytes=sum(part.reads * part.size_bytes // part.rows for part in tables),
        pages=reduce(add, pages) if pages else None,
    )

"""The weights of a memory and its base model, in parts with parameters and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import INFERENCE_DTYPES
from engram.sizing.counts import MemoryCount
from engram.sizing.pages import RowPages, row_pages
from engram.storage.dtypes import TABLE_DTYPES, dtype_name, row_bytes

Kind = Literal["exact", "nominal", "estimated"]
Group = Literal["table", "dense", "constants", "base"]

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
        pages: Pages touched by reading a row of a table from disk; None for other parts.
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
        kind: config, attached, adapter or released.
        layout: Name of the layout.
        title: The layout or family in one line.
        config: The memory in our terms; None for a kind of memory that we do not run.
        hash_rows: Rows that ids can reach, by layer in hash order; None is the layer of tables
            that belong to no layer alone.
        weights: Parts of the memory by layer, and the base as one, if it is known.
        notes: What should be said with the numbers.
    """

    kind: Literal["config", "attached", "adapter", "released"]
    layout: str
    title: str
    config: EngramConfig | None
    hash_rows: Mapping[int | None, int]
    weights: tuple[Weights, ...]
    notes: tuple[str, ...]


def dtype_bytes(dtype: str) -> int:
    """Return the bytes of one value of a dtype, without scales."""
    return TABLE_DTYPES[dtype_name(dtype)].bits // 8


def dense_dtype(table_dtype: str) -> str:
    """Return the dtype of modules around a table: the table's, or bfloat16 if it is quantised."""
    return "bfloat16" if dtype_name(table_dtype) in INFERENCE_DTYPES else dtype_name(table_dtype)


def config_weights(counts: MemoryCount, table_dtype: str) -> list[Weights]:
    """Return the weights of a memory that is not built yet.

    Args:
        counts: Its parameter counts.
        table_dtype: dtype of the stored tables; the other parts have the `dense_dtype` for it.
    """
    around = dense_dtype(table_dtype)
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
            reads=counts.n_columns,
        )
        parts.append(table.cast(table_dtype))
        for name, params in layer.dense_parts.items():
            dense = Weights(
                part=f"layers.{layer.layer_id}.{name}",
                group="dense",
                params=params,
                size_bytes=0,
                dtype=None,
                kind="exact" if around == dtype_name(table_dtype) else "nominal",
                layer_id=layer.layer_id,
            )
            parts.append(dense.cast(around))
    return parts


def base_weights(backbone: Backbone) -> Weights:
    """Return the weights of a base model, in the dtype of its config, or bfloat16."""
    base = Weights(
        part="base", group="base", params=backbone.params, size_bytes=0, dtype=None, kind="nominal"
    )
    return base.cast(backbone.dtype or BASE_DTYPE)


def total_of(weights: Sequence[Weights], group: Group) -> tuple[int, int]:
    """Return the parameters and bytes of one group."""
    parts = [part for part in weights if part.group == group]
    return sum(part.params for part in parts), sum(part.size_bytes for part in parts)

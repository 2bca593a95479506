"""Exact parameter counts of a memory in closed form: real primes, every dense part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engram.addressing.primes import head_primes, stored_rows
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """Parameter counts of one layer's memory.

    Attributes:
        layer_id: The layer (0-based) in the backbone.
        primes: Rows of each head's table, ``[order][head]``.
        rows: Rows of the layer's table as stored, padding included.
        table_params: rows x row width.
        dense_parts: Parameters of the module without its table, part by part.
    """

    layer_id: int
    primes: list[list[int]]
    rows: int
    table_params: int
    dense_parts: dict[str, int]

    @property
    def hash_rows(self) -> int:
        """Number of rows that ids can reach: the sum of the primes."""
        return sum(map(sum, self.primes))

    @property
    def dense_params(self) -> int:
        """Parameters of the module without its table."""
        return sum(self.dense_parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {
            "layer_id": self.layer_id,
            "primes": self.primes,
            "rows": self.rows,
            "hash_rows": self.hash_rows,
            "table_params": self.table_params,
            "dense_params": self.dense_params,
            "dense_parts": self.dense_parts,
        }


@dataclass(frozen=True, kw_only=True)
class MemoryCount:
    """Parameter counts of a whole memory.

    Attributes:
        config: The memory.
        layers: One count per layer, in hash order.
    """

    config: EngramConfig
    layers: tuple[LayerCount, ...]

    @property
    def rows(self) -> int:
        """Stored rows of all layers' tables."""
        return sum(layer.rows for layer in self.layers)

    @property
    def table_params(self) -> int:
        """Parameters of all tables, padding included."""
        return sum(layer.table_params for layer in self.layers)

    @property
    def dense_params(self) -> int:
        """Parameters of all modules without their tables."""
        return sum(layer.dense_params for layer in self.layers)

    @property
    def total_params(self) -> int:
        """Parameters of the memory."""
        return self.table_params + self.dense_params


def count_params(config: EngramConfig, layer_ids: Sequence[int] | None = None) -> MemoryCount:
    """Count the parameters of a memory without building it (tests compare with the built module).

    Args:
        config: The memory.
        layer_ids: Layers in hash order; those of the config when None.

    Raises:
        LayoutError: No layer reads the memory.
    """
    primes = head_primes(config, layer_ids)
    if not primes:
        raise LayoutError("No layer reads the memory.", "Give layer_ids, such as [1, 6].")
    dense_parts = config.rules.dense_parts(config.sizes)
    rows = {layer_id: stored_rows(primes[layer_id], config.row_multiple) for layer_id in primes}
    return MemoryCount(
        config=config,
        layers=tuple(
            LayerCount(
                layer_id=layer_id,
                primes=[list(heads) for heads in primes[layer_id]],
                rows=rows[layer_id],
                table_params=rows[layer_id] * config.row_width,
                dense_parts=dense_parts,
            )
            for layer_id in primes
        ),
    )

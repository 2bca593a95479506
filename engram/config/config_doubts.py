"""Warnings about valid but unlikely configs: tables too large or too small."""

from __future__ import annotations

from engram.config.engram_config import EngramConfig
from engram.storage.dtypes import row_bytes
from engram.units import format_bytes

# The largest published tables have 384M rows a layer and 189 GiB in all.
MANY_ROWS = 10**12
MANY_BYTES = 100 * 2**40
# A text that contains every token once has as many distinct n-grams as tokens. With that many per
# row, only one row in ten million stays free.
FEW_ROWS = 16


def config_doubts(config: EngramConfig) -> list[str]:
    """Return warnings about a valid config that probably is not meant so, one sentence each.

    Args:
        config: The memory.

    Returns:
        The sentences; none for tables of a usual size.
    """
    rows, dtype = sum(config.engram_table_size), config.stored_dtype().name
    size_bytes = rows * row_bytes(config.row_width, dtype) * len(config.layer_ids)
    known = "the largest published ones have 384M rows a layer and 189 GiB in all"
    if rows > MANY_ROWS:
        return [f"engram_table_size makes {rows:,} rows a layer; {known}."]
    if size_bytes > MANY_BYTES:
        return [f"engram_table_size makes tables of {format_bytes(size_bytes)}; {known}."]
    fewest, vocab_size = min(config.rows_per_head), config.engram_vocab_size
    if fewest * FEW_ROWS < vocab_size:
        return [
            f"engram_table_size makes {fewest:,} rows per HEAD for {vocab_size:,} token ids: any "
            "text fills such a table, and unrelated n-grams share every row. In the template gpt2, "
            "a head has a quarter as many rows as the vocabulary has ids."
        ]
    return []

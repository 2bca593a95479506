"""The memory that `scale.py` measures: one layer, whose table has as many rows as are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template

# A row has 64 values of bfloat16.
WIDTH, ROW_BYTES = 64, 128


def memory_of(rows: int, template: str, **changes: Any) -> EngramConfig:
    """Return a template's memory (2-grams and 3-grams, 8 heads) with one table.

    Args:
        rows: Rows of the table, all heads together, before they are rounded up to primes.
        template: Name of the template.
        **changes: Other keys of the config to replace.
    """
    config = load_template(template)
    orders = config.max_ngram_size - 1
    return replace(
        config,
        engram_table_size=[rows // orders] * orders,
        layer_ids=[1],
        table_dtype="bfloat16",
        **changes,
    )

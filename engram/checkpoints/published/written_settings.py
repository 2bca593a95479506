"""Values of a published config's settings, from a memory's own config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engram.config.engram_config import EngramConfig


def written_values(
    config: EngramConfig,
    *,
    stored_rows: Sequence[int],
    compressed_vocab_size: int | None,
    pad_id: int | None,
) -> dict[str, Any]:
    """Give a memory's settings by the names of `engram.layouts.settings.Setting`.

    Args:
        config: The memory.
        stored_rows: Rows of every layer's table, in the order of the layers.
        compressed_vocab_size: Ids of the compressed vocabulary; None where it is not known.
        pad_id: Token id of the pad; None where it is not known.
    """
    return {
        **vars(config),
        "rows_per_head": config.rows_per_head[0],
        "row_width": config.row_width,
        "memory_width": config.memory_width,
        "shards": config.row_multiple,
        "stored_rows": list(stored_rows),
        "compressed_vocab_size": compressed_vocab_size,
        "pad_id": pad_id,
    }

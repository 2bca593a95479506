"""Rows of stored tables as an engine must read them: stored bytes, float32 and bfloat16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.memory_tensors import ReleasedTensor
from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.storage.row_encodings.rounding import to_bfloat16
from engram.tensor_names import TABLE

_FOUR_GIB = 2**32


def row_values(
    checkpoint: Checkpoint, rows_read: Mapping[int, Sequence[int]]
) -> list[dict[str, Any]]:
    """Read sampled rows of every table; nothing else of the tables is read.

    The first two rows, the last, the one that byte 2^32 of the table lies in, the first that the
    cases read and, where scales are e8m0, the first of those with a scale byte of zero.

    Args:
        checkpoint: The files with the tables.
        rows_read: Rows that the cases read, by layer: the sample that is searched for a scale.

    Returns:
        By layer and row: why it is here, its bytes and scales as stored, and its values as bits.
    """
    return [
        _row(layer_id, table, row, why)
        for layer_id, tensors in checkpoint.layers.items()
        for table in [tensors[TABLE]]
        for row, why in _sample(table, rows_read[layer_id]).items()
    ]


def _sample(table: ReleasedTensor, rows_read: Sequence[int]) -> dict[int, list[str]]:
    wanted = [(0, "first"), (1, "second"), (table.rows - 1, "last"), (rows_read[0], "read")]
    if _has_scale_bytes(table):
        zero = (row for row in rows_read if not table.read_scale_bytes(row, 1).all())
        wanted += [(row, "scale byte 0") for row in [next(zero, None)] if row is not None]
    wanted.append((_FOUR_GIB // table.row_bytes, "byte 2^32"))
    found: dict[int, list[str]] = {}
    for row, why in wanted:
        if row < table.rows:
            found.setdefault(row, []).append(why)
    return found


def _has_scale_bytes(table: ReleasedTensor) -> TypeGuard[StoredTensor]:
    return isinstance(table, StoredTensor) and table.has_scale_bytes


def _row(layer_id: int, table: ReleasedTensor, row: int, why: list[str]) -> dict[str, Any]:
    with np.errstate(over="ignore"):  # float64 tables may hold what float32 cannot
        values = table.read_rows(np.array([row]))[0].astype(np.float32)
    scales = table.read_scale_bytes(row, 1) if _has_scale_bytes(table) else None
    return {
        "layer_id": layer_id,
        "row": row,
        "why": why,
        "dtype": table.dtype,
        "stored_hex": table.read_bytes(row, 1).tobytes().hex(),
        "scales_hex": None if scales is None else scales.tobytes().hex(),
        "float32_bits": values.view(np.uint32).tolist(),
        "bfloat16_bits": to_bfloat16(values).tolist(),
    }

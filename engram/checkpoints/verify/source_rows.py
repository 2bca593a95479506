"""`compare_rows`: sampled rows of a table in GGUF against those that it was made from.

Rows of one encoding are compared byte for byte, others by their values: these may be off by what
the encoding rounds, given the scales that the rows have, and by no more.

Shapes: n sampled rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.gguf.file_faults import Fault
from engram.checkpoints.gguf.gguf_memory import GgufTable
from engram.checkpoints.gguf.gguf_rows import GgufRows, telling_rows
from engram.checkpoints.read.source_tables import SourceTable
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS
from engram.storage.row_encodings.nearest_codes import nearest_values
from engram.units import listed, plural

_BETWEEN, _NAMED = 32, 4
# Encodings with the same bytes of a row, whether its scales follow it or lie apart.
_SAME_BYTES = {ROW264: TWO_TENSORS}
# Encoders need not take the nearest code of each value; rows of others are off by their norm.
_MOST_ROUNDING, _MOST_ERROR = 2.0, 0.75
_NO_ERROR = 1e-6


def compare_rows(table: GgufTable, source: SourceTable) -> tuple[tuple[Fault, ...], str]:
    """Compare sampled rows of a table with those of its source.

    Args:
        table: The table in GGUF.
        source: The table that it was made from.

    Returns:
        What is wrong, and what is right where nothing is; the name of the source may follow.

    Raises:
        LayoutError: Rows are of an encoding that is not decoded.
        CorruptFileError: A file ends before a row does, or a row cannot be decoded.
    """
    again = "Convert the table again, from the source that was meant."
    name = table.values.name
    widths = {table.width, source.width} - {None}  # that of an unknown encoding
    if table.rows != source.rows or len(widths) > 1:
        message = (
            f"{name} has {table.rows:,} rows of {table.width} values, its source {source.rows:,} "
            f"of {source.width}"
        )
        return (Fault("SOURCE_ROWS", message, "Give all files of the source's table."),), ""
    sizes = (table.values.row_bytes or 1, source.row_bytes)
    chosen = {row for size in sizes for row in telling_rows(table.rows, size, _BETWEEN)}
    if not chosen:
        return (), "without rows, as are those of"
    row_ids = np.array(sorted(chosen), np.int64)
    encodings = [_SAME_BYTES.get(it, it) for it in (table.encoding, source.encoding)]
    if encodings[0] == encodings[1]:
        differs = _differing_bytes(table, source, row_ids)
        code, how, detail = "SOURCE_BYTES", "bytes", "equal byte for byte to those of"
    else:
        differs, detail = _differing_values(table, source, row_ids)
        code, how = "SOURCE_VALUES", f"values, by more than {table.encoding} rounds"
    if differs.any():
        wrong = [f"{row:,}" for row in row_ids[differs].tolist()]
        message = (
            f"{name}: {len(wrong)} of {len(row_ids)} sampled rows differ from the source in their "
            f"{how}: row {listed(wrong, _NAMED)}"
        )
        return (Fault(code, message, again),), ""
    return (), f"{plural(len(row_ids), 'sampled row')}: {detail}"


def _differing_bytes(
    table: GgufTable, source: SourceTable, row_ids: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say which rows differ in a byte ``[n]``."""
    own, right = (
        np.concatenate(read(row_ids), axis=1)
        for read in (GgufRows(table).read_stored, source.read_stored)
    )
    if own.shape != right.shape:  # of an encoding that is not known here
        return np.ones(len(row_ids), bool)
    differs: NDArray[np.bool_] = (own != right).any(axis=1)
    return differs


def _differing_values(
    table: GgufTable, source: SourceTable, row_ids: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], str]:
    """Say which rows are off by more than their encoding rounds ``[n]``, and by how much."""
    reader = GgufRows(table)
    own, right = reader.read_rows(row_ids), source.read_rows(row_ids)
    best = nearest_values(table.encoding, reader.read_stored(row_ids), right)
    norms = np.linalg.norm(right, axis=1)
    error, rounding = (np.linalg.norm(it - right, axis=1) for it in (own, best))
    allowed = np.minimum(_MOST_ROUNDING * rounding, _MOST_ERROR * norms) + _NO_ERROR * norms
    shares = [float((it / np.where(norms > 0, norms, 1)).max()) for it in (error, rounding)]
    detail = (
        f"errors up to {shares[0]:.2g} of a row's norm, where rounding to {table.encoding} gives "
        f"{shares[1]:.2g}, against"
    )
    return ~(error <= allowed), detail

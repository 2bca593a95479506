"""Reads single rows of a stored table, in numpy: whatever its dtype, nothing else is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.storage.dtypes import FP8_SCALE_BLOCK, TABLE_DTYPES
from engram.storage.stored_values import decode


def read_rows(table: StoredTensor, row_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Read rows of a table.

    Args:
        table: The table, in files.
        row_ids: Rows, within the table ``[n]``.

    Returns:
        Their values ``[n, width]``; every stored format fits float64 exactly.
    """
    form = TABLE_DTYPES[table.dtype]
    out = np.empty((len(row_ids), table.width))
    for i, row in enumerate(row_ids.tolist()):
        out[i] = decode(table.read_bytes(row, 1), form.tag)
        if table.float_scales:
            out[i] *= table.row_factors(row, 1)
        elif form.scale_tag:
            factors = decode(table.read_scale_bytes(row, 1), form.scale_tag)
            out[i] *= (
                factors if len(factors) == 1 else factors.repeat(FP8_SCALE_BLOCK)[: len(out[i])]
            )
    return out

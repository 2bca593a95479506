"""`GgufRows`: rows of a table in GGUF, decoded as its engine does; nothing else is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.gguf.gguf_memory import GgufTable
from engram.errors import CorruptFileError, LayoutError
from engram.storage.gguf_headers import GgufTensor
from engram.storage.row_encodings.known_encodings import row_encoding

_MOST_BYTES = 2**20  # of a row; those of released tables have some hundreds


@dataclass(frozen=True)
class GgufRows:
    """Reads rows of a table.

    Attributes:
        table: The table.
    """

    table: GgufTable

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.table.rows

    def read_rows(self, row_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read single rows.

        Args:
            row_ids: Rows, within the table ``[n]``.

        Returns:
            Their values ``[n, width]``, in float32 as the engine has them; float64 holds them
            without loss, and their squares.

        Raises:
            LayoutError: Their encoding is unknown.
            CorruptFileError: The file ends before a row does, or a row holds what the engine
                refuses to read.
        """
        encoding = row_encoding(self.table.encoding)
        stored = [_bytes(tensor, row_ids) for tensor in self.table.decoded]
        return encoding.decode(*stored).astype(np.float64)


def _bytes(tensor: GgufTensor, row_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read rows as they are stored ``[n, row_bytes]``."""
    size = tensor.row_bytes
    if size is None:
        raise LayoutError(
            f"{tensor.path}: rows of {tensor.name} are of ggml type {tensor.type_id}, which is "
            "unknown.",
            path=str(tensor.path),
            tensor=tensor.name,
        )
    if size > _MOST_BYTES:
        raise CorruptFileError(
            f"{tensor.path}: rows of {tensor.name} have {size:,} bytes, more than {_MOST_BYTES:,}.",
            "Convert the file again.",
            path=str(tensor.path),
            tensor=tensor.name,
        )
    rows, out = row_ids.tolist(), np.empty((len(row_ids), size), np.uint8)
    contents = tensor.source.read_each([(tensor.start + row * size, size) for row in rows])
    for at, (row, content) in enumerate(zip(rows, contents, strict=True)):
        if len(content) < size:
            raise CorruptFileError(
                f"{tensor.path} ends before row {row:,} of {tensor.name} does.",
                "Download or copy it again.",
                path=str(tensor.path),
                tensor=tensor.name,
                row=row,
            )
        out[at] = np.frombuffer(content, np.uint8)
    return out

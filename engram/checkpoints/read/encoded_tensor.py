"""`EncodedTensor`: a matrix in files whose rows are packed, decoded a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.published.encoded_values import EncodedValues
from engram.checkpoints.read.stored_tensor import read_bytes
from engram.errors import MismatchError
from engram.storage.matrix import Matrix
from engram.storage.row_encodings.fp8_rows import TWO_TENSORS
from engram.storage.row_encodings.known_encodings import row_encoding
from engram.storage.stored_values import decode

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EncodedTensor(Matrix):
    """Packed floats in safetensors files.

    Attributes:
        name: What to call it in messages.
        shape: Its shape, rows and columns.
        values: Its encoding, and where the parts of its rows are.
        first: Rows of the files that come before this tensor: it may be part of another.
    """

    name: str
    shape: tuple[int, ...]
    values: EncodedValues
    first: int = 0

    # Its scales are those of its encoding.
    float_scales = False
    rows_per_scale = 1
    block_scales = None

    @property
    def dtype(self) -> str:
        """Name of the encoding; fp8 where rows are as this toolkit stores them."""
        is_own = self.values.encoding == TWO_TENSORS and not self.values.factors
        return "fp8" if is_own else self.values.encoding

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, in all its parts."""
        return sum(self.values.row_bytes)

    def part(self, first_row: int, shape: tuple[int, ...]) -> EncodedTensor:
        """Return some of the rows as a tensor of their own."""
        return replace(self, shape=shape, first=self.first + first_row)

    def read_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read rows as they are stored: codes of fp8, else all parts of a row after each other."""
        parts = self._parts(first_row, rows)
        return (parts[0] if self.dtype == "fp8" else np.concatenate(parts, axis=1)).ravel()

    def read_scale_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read the scales of fp8 rows as they are stored."""
        return self._parts(first_row, rows)[1].ravel()

    def read_rows(self, row_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read single rows as floats, in numpy; nothing else is read.

        Args:
            row_ids: Rows, within the tensor ``[n]``.

        Returns:
            Their values ``[n, width]``.
        """
        if not len(row_ids):
            return np.empty((0, self.width))
        return self._decoded(self.read_stored(row_ids), row_ids)

    def read_stored(self, row_ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Read single rows as they are stored.

        Args:
            row_ids: Rows, within the tensor, one at least ``[n]``.

        Returns:
            Their bytes ``[n, bytes]`` for each part of the encoding.
        """
        read = [self._parts(row, 1) for row in row_ids.tolist()]
        return [np.concatenate(part) for part in zip(*read, strict=True)]

    def read(self, first_row: int, rows: int) -> Tensor:
        """Read rows as float32.

        Args:
            first_row: The first.
            rows: How many, at least one.

        Returns:
            Values ``[rows, width]``.
        """
        import torch

        row_ids = np.arange(first_row, first_row + rows)
        return torch.from_numpy(self._decoded(self._parts(first_row, rows), row_ids)).float()

    def _parts(self, first_row: int, rows: int) -> list[NDArray[np.uint8]]:
        """Read the bytes of rows, ``[rows, bytes]`` for each part of the encoding."""
        found = []
        for size, pieces in zip(self.values.row_bytes, self.values.parts, strict=True):
            raw = read_bytes(pieces, (self.first + first_row) * size, rows * size)
            found.append(raw.reshape(rows, size))
        return found

    def _decoded(
        self, parts: list[NDArray[np.uint8]], row_ids: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        values = row_encoding(self.values.encoding).decode(*parts).astype(np.float64)
        if self.values.factors:
            each = self._factors
            ends = np.cumsum([info.shape[0] for info in self.values.parts[0]])
            piece = np.searchsorted(ends, row_ids + self.first, side="right")
            values *= each[piece if len(each) > 1 else np.zeros_like(piece)][:, np.newaxis]
        return values

    @cached_property
    def _factors(self) -> NDArray[np.float64]:
        """Factors of the pieces, or one for all of them."""
        found = self.values.factors
        return np.concatenate([decode(read_bytes([info], 0, 4), "F32") for info in found])


def encoded_tensor(name: str, shape: tuple[int, ...], values: EncodedValues) -> EncodedTensor:
    """Check that packed rows are as many as they must be.

    Args:
        name: What to call it in messages.
        shape: The shape that it must have.
        values: Its encoding, and where the parts of its rows are.

    Raises:
        MismatchError: The files hold another number of rows.
    """
    rows = sum(info.shape[0] for info in values.parts[0])
    if rows != shape[0]:
        raise MismatchError(
            f"{name} has {rows} rows ({values.encoding}), not {shape[0]}.",
            "Give the config that the memory was made with.",
            tensor=name,
            stored=rows,
            expected=list(shape),
        )
    return EncodedTensor(name, shape, values)

"""`GgufStored`: a tensor of a GGUF file, read a few rows at a time as `StoredTensor` is.

Shapes: a tensor counts as a matrix: its first dimension, which is ggml's last, by all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engram.errors import LayoutError, MismatchError
from engram.storage.gguf_headers import GgufTensor
from engram.storage.matrix import Matrix
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS
from engram.storage.row_encodings.known_encodings import row_encoding
from engram.storage.row_encodings.scaled_encodings import split

if TYPE_CHECKING:
    from torch import Tensor

# Encodings whose bytes are those of a dtype here; all others are decoded to float32.
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FP8 = (ROW264, TWO_TENSORS)


@dataclass(frozen=True, eq=False)
class GgufStored(Matrix):
    """Floats in a GGUF file.

    Attributes:
        name: What to call it in messages: the layer, and our name.
        shape: Its shape.
        tensors: The tensors that its rows are in: the second has scales.
        row_sizes: Bytes of a row in each of them.
        encoding: How a row is stored.
        shift: What was added to its values when they were stored.
        block_scales: Scales of blocks of 32 x 32 that its values had in fp8, if that is known.
        first_row: Rows of the tensors that come before this one: it may be part of another.
    """

    name: str
    shape: tuple[int, ...]
    tensors: tuple[GgufTensor, ...]
    row_sizes: tuple[int, ...]
    encoding: str
    shift: float = 0.0
    block_scales: NDArray[np.uint8] | None = None
    first_row: int = 0

    # Scales are as this toolkit stores them: one e8m0 for 32 columns of a row.
    float_scales = False
    rows_per_scale = 1

    @property
    def dtype(self) -> str:
        """Name of the dtype that `read_bytes` gives."""
        if self.shift:
            return "float32"
        return "fp8" if self.encoding in _FP8 else _FLOATS.get(self.encoding, "float32")

    @cached_property
    def _is_stored_so(self) -> bool:
        return not self.shift and (self.encoding in _FP8 or self.encoding in _FLOATS)

    def part(self, first_row: int, shape: tuple[int, ...]) -> GgufStored:
        """Return some of the rows."""
        return replace(self, shape=shape, first_row=self.first_row + first_row)

    def read_stored(self, first_row: int, rows: int) -> tuple[NDArray[np.uint8], ...]:
        """Read rows as the file has them, of each tensor ``[rows, bytes]``."""
        first = self.first_row + first_row
        sizes = zip(self.tensors, self.row_sizes, strict=True)
        return tuple(_rows(tensor, size, first, rows) for tensor, size in sizes)

    def read_values(self, first_row: int, rows: int) -> NDArray[np.float32]:
        """Read rows as their engine decodes them ``[rows, width]``."""
        stored = self.read_stored(first_row, rows)
        values = row_encoding(self.encoding).decode(*stored)
        return values - np.float32(self.shift) if self.shift else values

    def read_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read the values of rows, in the `dtype`."""
        if not self._is_stored_so:
            return self.read_values(first_row, rows).view(np.uint8).ravel()
        stored = self.read_stored(first_row, rows)[0]
        codes = split(stored)[0] if self.encoding == ROW264 else stored
        return np.ascontiguousarray(codes).ravel()

    def read_scale_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read the scales of fp8 rows."""
        stored = self.read_stored(first_row, rows)
        scales = split(stored[0])[1] if self.encoding == ROW264 else stored[1]
        return np.ascontiguousarray(scales).ravel()

    def read(self, first_row: int, rows: int) -> Tensor:
        """Read rows as floats ``[rows, width]``; quantised ones as float32."""
        import torch

        if not self._is_stored_so or self.dtype == "fp8":
            return torch.from_numpy(self._fp8_values(first_row, rows))
        stored: torch.dtype = getattr(torch, self.dtype)
        values = torch.from_numpy(self.read_bytes(first_row, rows))
        return values.view(stored).view(rows, self.width)

    def _fp8_values(self, first_row: int, rows: int) -> NDArray[np.float32]:
        if self.encoding != ROW264:
            return self.read_values(first_row, rows)
        # Values as they are, which ds4 rounds to bfloat16 when it reads them.
        codes, scales = split(self.read_stored(first_row, rows)[0])
        return row_encoding(TWO_TENSORS).decode(
            np.ascontiguousarray(codes), np.ascontiguousarray(scales)
        )


def gguf_stored(
    name: str,
    shape: tuple[int, ...],
    tensors: Sequence[GgufTensor],
    encoding: str,
    shift: float = 0.0,
) -> GgufStored:
    """Check that tensors hold a matrix that can be read.

    Args:
        name: What to call it in messages.
        shape: The shape that it must have.
        tensors: See `GgufStored`.
        encoding: See `GgufStored`.
        shift: See `GgufStored`.

    Raises:
        LayoutError: The encoding is unknown.
        MismatchError: The tensors have another size.
    """
    rows, width = shape[0], prod(shape[1:])
    known, sizes = row_encoding(encoding), [tensor.data_bytes for tensor in tensors]
    if not known.fits(width):
        raise LayoutError(
            f"{name} has rows of {width} values, which {encoding} cannot store.", tensor=name
        )
    blocks = width // known.block_values
    row_sizes = tuple(blocks * part.itemsize for part in known.parts)
    if sizes != [rows * size for size in row_sizes]:
        found = " + ".join(f"{tensor.type_name} {list(tensor.dims)}" for tensor in tensors)
        raise MismatchError(
            f"{name} is {found}, not {list(shape)} as {encoding}.",
            "Convert the checkpoint again.",
            tensor=name,
            stored=[list(tensor.dims) for tensor in tensors],
            expected=list(shape),
        )
    return GgufStored(name, shape, tuple(tensors), row_sizes, encoding, shift)


def _rows(tensor: GgufTensor, size: int, first: int, rows: int) -> NDArray[np.uint8]:
    content = bytearray(tensor.read(first * size, rows * size))  # which torch may write to
    return np.frombuffer(content, np.uint8).reshape(rows, size)

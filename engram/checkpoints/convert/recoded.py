"""Streams of stored tensors in another dtype, with a record of the error that it introduces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.config.engram_config import EngramConfig
from engram.errors import InputError
from engram.storage.dtypes import (
    FLOATS,
    FP8_SCALE_BLOCK,
    QUANTISED,
    TABLE_DTYPES,
    row_bytes,
    scales_per_row,
)
from engram.storage.row_encodings.rounding_errors import rounding_errors
from engram.storage.safetensors_writer import TensorStream
from engram.tensor_names import TABLE

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["table", "dense"]
# Makes the bytes of a chunk, given its first row and number of rows.
Make = Callable[[int, int], NDArray[np.uint8]]
PARTS: tuple[Part, ...] = ("table", "dense")
# Small: three chunks are in memory at a time, each with what its conversion needs.
_CHUNK_VALUES = 2**18
# Scales of a tensor that are kept while its values are written, which come before them.
_KEPT_BYTES = 2**26


class Rows(Protocol):
    """A tensor in files, read by rows: `StoredTensor`, `EncodedTensor` or `GgufStored`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def float_scales(self) -> bool: ...  # noqa: D102
    @property
    def rows_per_scale(self) -> int: ...  # noqa: D102
    @property
    def block_scales(self) -> NDArray[np.uint8] | None: ...  # noqa: D102

    def part(self, first_row: int, shape: tuple[int, ...]) -> Self:
        """Return some of the rows as a tensor of another shape."""
        ...

    def read_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read rows as they are stored."""
        ...

    def read_scale_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read the scales of rows as they are stored."""
        ...

    def read(self, first_row: int, rows: int) -> Tensor:
        """Read rows as floats."""
        ...


@dataclass(frozen=True)
class Loss:
    """The error that a conversion introduced.

    Attributes:
        max_error: Largest difference between a value and what is stored of it.
        rms_error: Root mean square of the differences.
        rms: Root mean square of the values; None when nothing had to be rounded.
    """

    max_error: float
    rms_error: float
    rms: float | None


# Layer, part, tensor and first row of a chunk, and its largest error, squares and values.
_Chunk = tuple[int, Part, str, int]
_Squares = tuple[float, float, float, int]


@dataclass
class LossRecord:
    """Collects the losses of chunks, which are made on several threads in any order.

    A chunk that is made again, after an interruption, counts once.
    """

    chunks: dict[_Chunk, _Squares] = field(default_factory=dict)
    _taken: int = 0

    def add(
        self, chunk: _Chunk, tensor: Rows, stored_as: str, before: Tensor, after: Tensor
    ) -> None:
        """Compare the values of a chunk with what became of them.

        Args:
            chunk: The chunk.
            tensor: What it is a part of.
            stored_as: Name of the type that its values were rounded to.
            before: Its values.
            after: What is stored of them, of the same shape.

        Raises:
            InputError: They are not finite, or the type cannot hold them.
        """
        import torch

        wide = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
        compared = rounding_errors(before.to(wide).numpy(), after.to(wide).numpy())
        if not all(map(math.isfinite, compared)):
            raise InputError(
                f"{tensor.name} holds values that are not finite, or that {stored_as} cannot hold.",
                "Keep its type, or use bfloat16 (BF16 in a GGUF file).",
                tensor=tensor.name,
                stored_as=stored_as,
            )
        self.chunks[chunk] = (*compared, before.numel())

    def take(self) -> list[Any]:
        """See `engram.storage.unfinished.Notes`."""
        items = list(self.chunks.items())
        first, self._taken = self._taken, len(items)
        return [[*chunk, *squares] for chunk, squares in items[first:]]

    def restore(self, taken: list[Any]) -> None:
        """See `engram.storage.unfinished.Notes`."""
        for layer_id, part, name, row, *squares in taken:
            self.chunks[layer_id, part, name, row] = (*squares,)
        self._taken = len(self.chunks)

    def of(self, layer_id: int, part: Part) -> Loss:
        """Sum a part of a layer up; the same chunks give the same numbers in any order."""
        rows = [row for chunk, row in self.chunks.items() if chunk[:2] == (layer_id, part)]
        count = sum(row[3] for row in rows)
        if not count:
            return Loss(0.0, 0.0, None)
        squares, values = (math.fsum(row[i] for row in rows) for i in (1, 2))
        largest = max(row[0] for row in rows)
        return Loss(largest, math.sqrt(squares / count), math.sqrt(values / count))


def recode(
    tensor: Rows,
    name: str,
    config: EngramConfig,
    record: LossRecord,
    layer_id: int,
    scale_name: str,
) -> list[TensorStream]:
    """Describe how a tensor of a memory is written in the memory's dtype, chunk by chunk.

    Beside quantised tables the rest stays as it is; quantised projections are not read.

    Args:
        tensor: Where it is; as it is stored now, its bytes are copied.
        name: Its name in the new file.
        config: The memory as it is to be stored.
        record: Told the values of every chunk that is rounded, before and after.
        layer_id: Its layer.
        scale_name: Name of the scales of quantised values in the new file.

    Returns:
        The tensor, and its scales where it has some.
    """
    dtype = config.stored_dtype().name
    part: Part = "table" if tensor.name.endswith(TABLE) else "dense"
    if part == "dense" and dtype in QUANTISED:
        dtype = tensor.dtype if tensor.dtype in FLOATS.values() else "bfloat16"
    stays = tensor.dtype == dtype and not tensor.float_scales and tensor.rows_per_scale == 1
    kept = _KeptScales(tensor, dtype)
    rounded = partial(_rounded, tensor, dtype, record, (layer_id, part, name), kept)
    make: Make = tensor.read_bytes if stays else rounded
    # Chunks hold whole blocks of scales.
    step = max(1, _CHUNK_VALUES // tensor.width // FP8_SCALE_BLOCK) * FP8_SCALE_BLOCK
    chunks = [(first, min(step, tensor.rows - first)) for first in range(0, tensor.rows, step)]
    form = TABLE_DTYPES[dtype]
    streams = [TensorStream(name, form.tag, tensor.shape, [partial(make, *it) for it in chunks])]
    if form.scale_tag:
        make = tensor.read_scale_bytes if stays else partial(_scales, tensor, dtype, kept)
        shape = (tensor.rows, scales_per_row(tensor.width, dtype))
        scales = [partial(make, *it) for it in chunks]
        streams.append(TensorStream(scale_name, form.scale_tag, shape, scales))
    return streams


class _KeptScales:
    """The scales of a tensor's first chunks, from their making until they are written.

    They are in one array: each alone, between arrays that come and go, they would keep the memory
    of those from being used again.

    Args:
        tensor: What is rounded.
        dtype: Name of the type that it is rounded to.
    """

    def __init__(self, tensor: Rows, dtype: str) -> None:
        size = row_bytes(tensor.width, dtype) - tensor.width * TABLE_DTYPES[dtype].bits // 8
        self._row_bytes = size
        self._bytes = np.empty(min(tensor.rows * size, _KEPT_BYTES), np.uint8)
        self._chunks: set[int] = set()

    def put(self, first_row: int, scales: NDArray[np.uint8]) -> None:
        """Keep the scales of a chunk if there is room."""
        begin = first_row * self._row_bytes
        if begin + scales.size <= len(self._bytes):
            self._bytes[begin : begin + scales.size] = scales.reshape(-1)
            self._chunks.add(first_row)

    def get(self, first_row: int, rows: int) -> NDArray[np.uint8] | None:
        """Return the scales of a chunk; None if they were not kept."""
        if first_row not in self._chunks:
            return None
        return self._bytes[first_row * self._row_bytes : (first_row + rows) * self._row_bytes]


def _rounded(
    tensor: Rows,
    dtype: str,
    record: LossRecord,
    place: tuple[int, Part, str],
    kept: _KeptScales,
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    """Make the values of a chunk, and keep its scales.

    Raises:
        InputError: See `LossRecord.add`.
    """
    import torch

    from engram.nn.quantised import FORMATS

    before = tensor.read(first_row, rows)
    before = before.to(torch.promote_types(before.dtype, torch.float32))
    if dtype in FORMATS:
        stored, scales = FORMATS[dtype].quantise(before)
        after = FORMATS[dtype].dequantise(stored, scales, dtype=torch.float32)
        kept.put(first_row, tensor_bytes(scales))
    else:
        stored = after = before.to(getattr(torch, dtype))
    record.add((*place, first_row), tensor, dtype, before, after)
    return tensor_bytes(stored)


def _scales(
    tensor: Rows, dtype: str, kept: _KeptScales, first_row: int, rows: int
) -> NDArray[np.uint8]:
    """Return the scales of a chunk; those that were not kept are made from the values once more."""
    from engram.nn.quantised import FORMATS

    if (scales := kept.get(first_row, rows)) is not None:
        return scales
    return tensor_bytes(FORMATS[dtype].quantise(tensor.read(first_row, rows))[1])

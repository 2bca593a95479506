"""Streams of stored tensors in another dtype, with a record of the error that it introduces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.errors import InputError
from engram.storage.dtypes import FP8_SCALE_BLOCK, TABLE_DTYPES, scales_per_row
from engram.storage.safetensors_writer import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["table", "dense"]
PARTS: tuple[Part, ...] = ("table", "dense")
# Small: three chunks are in memory at a time, each with what its conversion needs.
_CHUNK_VALUES = 2**18


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


@dataclass
class LossRecord:
    """Collects the losses of chunks, which are made on several threads in any order."""

    chunks: dict[tuple[int, Part], list[tuple[float, float, float, int]]] = field(
        default_factory=dict
    )

    def add(self, layer_id: int, part: Part, before: Tensor, after: Tensor) -> None:
        """Compare the values of a chunk with what became of them."""
        import torch

        wide = torch.promote_types(before.dtype, after.dtype)
        error = after.to(wide) - before.to(wide)
        norms = (torch.linalg.vector_norm(x, dtype=torch.float64) for x in (error, before))
        squares, values = (float(norm) ** 2 for norm in norms)
        row = float(error.abs().max()) if error.numel() else 0.0, squares, values, error.numel()
        self.chunks.setdefault((layer_id, part), []).append(row)

    def of(self, layer_id: int, part: Part) -> Loss:
        """Sum a part of a layer up; the same chunks give the same numbers in any order."""
        rows = self.chunks.get((layer_id, part), [])
        count = sum(row[3] for row in rows)
        if not count:
            return Loss(0.0, 0.0, None)
        squares, values = (math.fsum(row[i] for row in rows) for i in (1, 2))
        largest = max(row[0] for row in rows)
        return Loss(largest, math.sqrt(squares / count), math.sqrt(values / count))


def recode(
    tensor: StoredTensor,
    name: str,
    dtype: str,
    record: Callable[[Tensor, Tensor], None],
    scale_name: str = "",
) -> list[TensorStream]:
    """Describe how a stored tensor is written in another dtype, chunk by chunk.

    Args:
        tensor: Where it is.
        name: Its name in the new file.
        dtype: What it is to be stored as; as it is stored now, its bytes are copied.
        record: Called with the values of every chunk that is rounded, before and after.
        scale_name: Name of the scales of quantised values in the new file.

    Returns:
        The tensor, and its scales where it has some.
    """
    chunks = _chunks(tensor)
    form = TABLE_DTYPES[dtype]
    if tensor.dtype == dtype and not tensor.float_scales:
        values = [partial(tensor.read_bytes, *chunk) for chunk in chunks]
        scales = [partial(tensor.read_scale_bytes, *chunk) for chunk in chunks]
        scale_shape: tuple[int, ...] = tensor.scale_shape
    elif form.scale_tag:
        values = [partial(_quantised, tensor, dtype, record, *chunk) for chunk in chunks]
        scales = [partial(_scales, tensor, dtype, *chunk) for chunk in chunks]
        scale_shape = (tensor.rows, scales_per_row(tensor.width, dtype))
    else:
        values = [partial(_cast, tensor, dtype, record, *chunk) for chunk in chunks]
    streams = [TensorStream(name, form.tag, tensor.shape, values)]
    if form.scale_tag:
        streams.append(TensorStream(scale_name, form.scale_tag, scale_shape, scales))
    return streams


def _chunks(tensor: StoredTensor) -> list[tuple[int, int]]:
    """First row and number of rows of every chunk; chunks hold whole blocks of scales."""
    rows = max(1, _CHUNK_VALUES // tensor.width // FP8_SCALE_BLOCK) * FP8_SCALE_BLOCK
    return [(first, min(rows, tensor.rows - first)) for first in range(0, tensor.rows, rows)]


def _cast(
    tensor: StoredTensor,
    dtype: str,
    record: Callable[[Tensor, Tensor], None],
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    import torch

    before = tensor.read(first_row, rows)
    after = before.to(getattr(torch, dtype))
    _demand_finite(tensor, dtype, after)
    record(before, after)
    return _bytes(after)


def _quantised(
    tensor: StoredTensor,
    dtype: str,
    record: Callable[[Tensor, Tensor], None],
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    import torch

    from engram.nn.quantised import FORMATS

    before = tensor.read(first_row, rows)
    codes, scales = FORMATS[dtype].quantise(before)
    after = FORMATS[dtype].dequantise(codes, scales, dtype=torch.float32)
    _demand_finite(tensor, dtype, before)
    _demand_finite(tensor, dtype, after)
    record(before, after)
    return _bytes(codes)


def _scales(tensor: StoredTensor, dtype: str, first_row: int, rows: int) -> NDArray[np.uint8]:
    """Make the scales of a chunk, from the values once more: keeping them takes memory."""
    from engram.nn.quantised import FORMATS

    return _bytes(FORMATS[dtype].quantise(tensor.read(first_row, rows))[1])


def _demand_finite(tensor: StoredTensor, dtype: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise InputError(
            f"{tensor.name} holds values that are not finite, or that {dtype} cannot hold.",
            "Keep its dtype, or use bfloat16.",
            tensor=tensor.name,
            dtype=dtype,
        )


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    import torch

    raw: NDArray[np.uint8] = values.contiguous().flatten().view(torch.uint8).numpy()
    return raw

"""Streams of stored tensors in another dtype, with a record of the error that it introduces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.memory_tensors import ReleasedTensor
from engram.checkpoints.read.stored_tensor import StoredTensor, tensor_bytes
from engram.config.engram_config import EngramConfig
from engram.errors import InputError
from engram.storage.dtypes import FLOATS, FP8_SCALE_BLOCK, QUANTISED, TABLE_DTYPES, scales_per_row
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
    tensor: ReleasedTensor,
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
    stays = _stays(tensor, dtype)
    rounded = partial(_rounded, tensor, dtype, partial(record.add, layer_id, part))
    make: Make = tensor.read_bytes if stays else rounded
    # Chunks hold whole blocks of scales.
    step = max(1, _CHUNK_VALUES // tensor.width // FP8_SCALE_BLOCK) * FP8_SCALE_BLOCK
    chunks = [(first, min(step, tensor.rows - first)) for first in range(0, tensor.rows, step)]
    form = TABLE_DTYPES[dtype]
    streams = [TensorStream(name, form.tag, tensor.shape, [partial(make, *it) for it in chunks])]
    if form.scale_tag:
        make = tensor.read_scale_bytes if _stays(tensor, dtype) else partial(_scales, tensor, dtype)
        shape = (tensor.rows, scales_per_row(tensor.width, dtype))
        scales = [partial(make, *it) for it in chunks]
        streams.append(TensorStream(scale_name, form.scale_tag, shape, scales))
    return streams


def _stays(tensor: ReleasedTensor, dtype: str) -> TypeGuard[StoredTensor]:
    """Whether the bytes of a tensor are already those of a dtype, as this toolkit stores it."""
    return (
        isinstance(tensor, StoredTensor)
        and tensor.dtype == dtype
        and not tensor.float_scales
        and tensor.rows_per_scale == 1
    )


def _rounded(
    tensor: ReleasedTensor,
    dtype: str,
    record: Callable[[Tensor, Tensor], None],
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    """Make the values of a chunk.

    Raises:
        InputError: They are not finite, or the dtype cannot hold them.
    """
    import torch

    from engram.nn.quantised import FORMATS

    before = tensor.read(first_row, rows)
    if dtype in FORMATS:
        stored, scales = FORMATS[dtype].quantise(before)
        after = FORMATS[dtype].dequantise(stored, scales, dtype=torch.float32)
    else:
        stored = after = before.to(getattr(torch, dtype))
    if not (before.isfinite().all() and after.isfinite().all()):
        raise InputError(
            f"{tensor.name} holds values that are not finite, or that {dtype} cannot hold.",
            "Keep its dtype, or use bfloat16.",
            tensor=tensor.name,
            stored_as=dtype,
        )
    record(before, after)
    return tensor_bytes(stored)


def _scales(tensor: ReleasedTensor, dtype: str, first_row: int, rows: int) -> NDArray[np.uint8]:
    """Make the scales of a chunk, from the values once more: keeping them takes memory."""
    from engram.nn.quantised import FORMATS

    return tensor_bytes(FORMATS[dtype].quantise(tensor.read(first_row, rows))[1])

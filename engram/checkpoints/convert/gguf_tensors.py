"""Tensors of a memory as GGUF files store them: copied where their bytes stay, else rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.convert.recoded import LossRecord, Part, Rows
from engram.checkpoints.gguf.gguf_stored import GgufStored
from engram.storage.dtypes import FP8_SCALE_BLOCK
from engram.storage.ggml_types import type_named
from engram.storage.gguf_writer import NewTensor
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS
from engram.storage.row_encodings.known_encodings import row_bytes, row_encoding
from engram.storage.row_encodings.rounding import round_rows
from engram.storage.row_encodings.scaled_encodings import interleave
from engram.tensor_names import TABLE

_CHUNK_VALUES = 2**19
_BYTES = type_named("I8")
# By dtype the type that has its bytes, and the type of tables that have none.
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_QUANTISED_TYPE = "Q8_0"
_FP8_ROWS = (ROW264, TWO_TENSORS)
# Makes the bytes of a chunk, given its first row and number of rows.
Make = Callable[[int, int], NDArray[np.uint8]]


def usual_encoding(tensor: Rows) -> str:
    """Return the encoding that holds a tensor's values as they are; Q8_0 for quantised rows.

    bfloat16 holds fp8 projections as they are.
    """
    if isinstance(tensor, GgufStored) and not tensor.shift and tensor.encoding not in _FP8_ROWS:
        return tensor.encoding
    is_table = tensor.name.endswith(TABLE)
    return _TYPES.get(tensor.dtype, _QUANTISED_TYPE if is_table else "BF16")


def gguf_tensors(
    tensor: Rows,
    names: tuple[str, ...],
    dims: tuple[int, ...],
    encoding: str,
    record: LossRecord,
    layer_id: int,
    shift: float = 0.0,
) -> list[NewTensor]:
    """Describe how a tensor is written, chunk by chunk.

    Args:
        tensor: Where it is.
        names: Its name in the new file; of fp8 rows in two tensors that of their scales, too.
        dims: Its dimensions as GGUF orders them, in values.
        encoding: How its rows are stored.
        record: Told the values of every chunk that is rounded, before and after.
        layer_id: Its layer.
        shift: What is added to its values.

    Raises:
        LayoutError: Its rows cannot be stored so.
    """
    part: Part = "table" if tensor.name.endswith(TABLE) else "dense"
    place = (layer_id, part, names[0])
    if encoding in _FP8_ROWS:
        row_bytes(encoding, tensor.width)  # which refuses rows of other widths
        read = partial(_fp8_rows, tensor, record, place)
        width, scales = tensor.width, tensor.width // FP8_SCALE_BLOCK
        if encoding == ROW264:
            made = partial(_interleaved, read)
            return [_new(tensor, names[0], (width + scales, tensor.rows), _BYTES.id, made)]
        return [
            _new(tensor, name, (size, tensor.rows), _BYTES.id, partial(_part, read, index))
            for index, (name, size) in enumerate(zip(names, (width, scales), strict=True))
        ]
    is_copied = isinstance(tensor, GgufStored) and tensor.encoding == encoding and not tensor.shift
    if is_copied and not shift:
        assert isinstance(tensor, GgufStored)
        stored = tensor.tensors[0]
        return [_new(tensor, names[0], dims, stored.type_id, partial(_stored, tensor))]
    row_bytes(encoding, dims[0])  # which refuses rows that are not whole blocks
    make: Make = partial(_rounded, tensor, encoding, record, place, shift)
    if not shift and _TYPES.get(tensor.dtype) == encoding and not tensor.float_scales:
        make = tensor.read_bytes
    return [_new(tensor, names[0], dims, type_named(encoding).id, make)]


def _new(tensor: Rows, name: str, dims: tuple[int, ...], type_id: int, make: Make) -> NewTensor:
    step = max(1, _CHUNK_VALUES // tensor.width)
    chunks = [
        partial(make, first, min(step, tensor.rows - first))
        for first in range(0, tensor.rows, step)
    ]
    return NewTensor(name, dims, type_id, chunks)


def _stored(tensor: GgufStored, first_row: int, rows: int) -> NDArray[np.uint8]:
    return tensor.read_stored(first_row, rows)[0]


def _rounded(
    tensor: Rows,
    encoding: str,
    record: LossRecord,
    place: tuple[int, Part, str],
    shift: float,
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    import torch

    read = tensor.read(first_row, rows)
    before = read.float().numpy()
    if shift:  # zeros keep their sign
        before = before + np.float32(shift)
    stored = round_rows(encoding, before)
    after = row_encoding(encoding).decode(stored)
    kept = torch.from_numpy(after - np.float32(shift))
    record.add((*place, first_row), tensor, encoding, read, kept)
    return stored


def _fp8_rows(
    tensor: Rows, record: LossRecord, place: tuple[int, Part, str], first_row: int, rows: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes ``[rows, width]`` and scales ``[rows, width / 32]`` of rows."""
    if tensor.dtype == "fp8" and not tensor.float_scales and tensor.rows_per_scale == 1:
        codes, scales = tensor.read_bytes(first_row, rows), tensor.read_scale_bytes(first_row, rows)
        return codes.reshape(rows, -1), scales.reshape(rows, -1)
    import torch

    from engram.checkpoints.read.stored_tensor import tensor_bytes
    from engram.nn.quantised import dequantise_fp8, quantise_fp8

    before = tensor.read(first_row, rows)
    quantised = quantise_fp8(before)
    after = dequantise_fp8(*quantised, dtype=torch.float32)
    record.add((*place, first_row), tensor, "fp8", before, after)
    codes, scales = (tensor_bytes(it).reshape(rows, -1) for it in quantised)
    return codes, scales


def _interleaved(
    read: Callable[[int, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    return interleave(*read(first_row, rows))


def _part(
    read: Callable[[int, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    index: int,
    first_row: int,
    rows: int,
) -> NDArray[np.uint8]:
    return read(first_row, rows)[index]

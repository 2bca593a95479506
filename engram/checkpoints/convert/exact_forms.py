"""Forms in which V4.1 is released beside fp8 tables, for values that they hold without loss.

A projection that was released in fp8 is wider in an engine's file, and its values are the same: it
becomes fp8 again. One that was trained since is none of these values, and stays as it is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.convert.recoded import Rows
from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.storage.dtypes import FP8_SCALE_BLOCK
from engram.storage.safetensors_writer import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

# fp8 with a scale for 32 x 32 values, or bfloat16.
Form = Literal["fp8", "bfloat16"]
_BLOCK = (FP8_SCALE_BLOCK, FP8_SCALE_BLOCK)
_CHUNK_ROWS = 16 * FP8_SCALE_BLOCK


def exact_form(tensor: Rows, block: tuple[int, int] | None) -> Form | None:
    """Find the form of a release that holds all values of a tensor as they are; None where none is.

    All of it is read.

    Args:
        tensor: A tensor beside the tables.
        block: Rows and columns that share a scale in a release.
    """
    import torch

    from engram.nn.quantised import dequantise_fp8

    is_whole = tensor.rows % FP8_SCALE_BLOCK == 0 == tensor.width % FP8_SCALE_BLOCK
    if tensor.dtype in ("bfloat16", "fp8", "int8") and block != _BLOCK:
        return None
    forms: set[Form] = {"bfloat16"}
    if block == _BLOCK and is_whole:
        forms.add("fp8")
    for first, rows in _chunks(tensor):
        values = tensor.read(first, rows).float()
        if "fp8" in forms:
            codes, scales = _quantised(tensor, values, first)
            again = dequantise_fp8(
                codes, scales, rows_per_scale=FP8_SCALE_BLOCK, dtype=torch.float32
            )
            if not torch.equal(again, values):
                forms.discard("fp8")
        if not torch.equal(values.bfloat16().float(), values):
            forms.discard("bfloat16")
        if not forms:
            return None
    return "fp8" if "fp8" in forms else "bfloat16"


def exact_streams(tensor: Rows, name: str, scale_name: str, form: Form) -> list[TensorStream]:
    """Describe how a tensor is written in a form that holds its values.

    Args:
        tensor: The tensor.
        name: Its name in the new file.
        scale_name: Name of its scales there.
        form: See `exact_form`.
    """
    chunks = [*_chunks(tensor)]
    tag = {"fp8": "F8_E4M3", "bfloat16": "BF16"}[form]
    values = [partial(_values, tensor, form, *chunk) for chunk in chunks]
    streams = [TensorStream(name, tag, tensor.shape, values)]
    if form == "fp8":
        shape = (tensor.rows // FP8_SCALE_BLOCK, tensor.width // FP8_SCALE_BLOCK)
        scales = [partial(_scales, tensor, *chunk) for chunk in chunks]
        streams.append(TensorStream(scale_name, "F8_E8M0", shape, scales))
    return streams


def _chunks(tensor: Rows) -> list[tuple[int, int]]:
    starts = range(0, tensor.rows, _CHUNK_ROWS)
    return [(first, min(_CHUNK_ROWS, tensor.rows - first)) for first in starts]


def _quantised(tensor: Rows, values: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
    """Quantise whole blocks: with the scales that they had, where these are known."""
    import torch

    from engram.nn.quantised import quantise_fp8_blocks

    known = tensor.block_scales
    if known is None:
        return quantise_fp8_blocks(values)
    first, count = first_row // FP8_SCALE_BLOCK, len(values) // FP8_SCALE_BLOCK
    scales = torch.from_numpy(known[first : first + count].copy()).view(torch.float8_e8m0fnu)
    factors = scales.float().repeat_interleave(FP8_SCALE_BLOCK, dim=0)
    factors = factors.repeat_interleave(FP8_SCALE_BLOCK, dim=1)
    return (values.float() / factors).to(torch.float8_e4m3fn), scales


def _values(tensor: Rows, form: Form, first_row: int, rows: int) -> NDArray[np.uint8]:
    values = tensor.read(first_row, rows)
    if form == "fp8":
        return tensor_bytes(_quantised(tensor, values, first_row)[0])
    return tensor_bytes(values.bfloat16())


def _scales(tensor: Rows, first_row: int, rows: int) -> NDArray[np.uint8]:
    return tensor_bytes(_quantised(tensor, tensor.read(first_row, rows), first_row)[1])

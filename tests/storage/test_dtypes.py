"""The table of dtypes against numpy, torch and safetensors, and the decoding of stored values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save

from engram.errors import InputError
from engram.storage.dtypes import (
    DTYPES,
    FLOATS,
    QUANTISED,
    TABLE_DTYPES,
    dtype_name,
    row_bytes,
)
from engram.storage.stored_values import decode

IN_TORCH = [tag for tag, dtype in DTYPES.items() if dtype.torch]


@pytest.mark.parametrize("tag", IN_TORCH)
def test_tags_are_those_of_safetensors(tag):
    dtype = getattr(torch, DTYPES[tag].torch)
    file = save(
        {"a": torch.zeros(3, dtype=torch.uint8 if dtype.itemsize == 1 else dtype).view(dtype)}
    )
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    assert header["a"]["dtype"] == tag
    assert header["a"]["data_offsets"] == [0, 3 * DTYPES[tag].bits // 8]


def test_sizes_are_those_of_numpy():
    for dtype in DTYPES.values():
        if dtype.numpy is not None:
            assert np.dtype(dtype.numpy).itemsize * 8 == dtype.bits


def test_table_dtypes_and_their_other_names():
    assert list(TABLE_DTYPES) == ["float64", "float32", "bfloat16", "float16", "fp8", "int8"]
    assert (QUANTISED, list(FLOATS)) == (("fp8", "int8"), ["F64", "F32", "BF16", "F16"])
    for name, dtype in TABLE_DTYPES.items():
        for text in (name, dtype.tag, dtype.tag.lower(), f"torch.{dtype.torch}", f" {name} "):
            assert dtype_name(text) == name
    with pytest.raises(InputError, match="not a table dtype"):
        dtype_name("int64")
    assert [row_bytes(40, name) for name in TABLE_DTYPES] == [320, 160, 80, 80, 42, 44]


@pytest.mark.parametrize("tag", ["F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "I8", "I64"])
def test_stored_values_are_decoded_exactly(tag):
    dtype = getattr(torch, DTYPES[tag].torch)
    raw = torch.arange(2**16).to(torch.uint16).view(torch.uint8)  # every byte, and every two
    expected = raw.view(dtype).to(torch.float64).numpy()
    assert np.array_equal(decode(raw.numpy(), tag), expected, equal_nan=True)

"""The table of row encodings: widths that fit, bytes of a row, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from engram.errors import CorruptFileError, LayoutError
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS, row_bytes, row_encoding

# As published files have them: DeepSeek-V4.1's rows of 256 values, and Qwen's of 160.
BYTES_OF_256 = {
    "e4m3_e8m0_32_row264": 264,
    "e4m3_e8m0_32": 264,
    "lloyd4_e5m3_32_r136": 136,
    "fp4_e8m0_32": 136,
    "MXFP4": 136,
    "Q8_0": 272,
    "Q6_K": 210,
    "Q5_K": 176,
    "Q4_K": 144,
    "Q4_0": 144,
    "IQ4_NL": 144,
    "Q3_K": 110,
    "Q2_K": 84,
    "BF16": 512,
    "F16": 512,
    "F32": 1024,
    "mlx_affine_b4_g64_bfloat16": 144,
}
BYTES_OF_160 = {"BF16": 320, "Q8_0": 170, "Q5_0": 110, "Q4_0": 90, "IQ4_NL": 90, "MXFP4": 85}
OF_256_ONLY = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "e4m3_e8m0_32_row264", "lloyd4_e5m3_32_r136")


def test_bytes_of_published_rows():
    assert {name: row_bytes(name, 256) for name in BYTES_OF_256} == BYTES_OF_256
    assert {name: row_bytes(name, 160) for name in BYTES_OF_160} == BYTES_OF_160


@pytest.mark.parametrize("name", OF_256_ONLY)
def test_widths_that_do_not_fit(name):
    with pytest.raises(LayoutError, match=f"Rows of 160 values cannot be stored as {name}") as it:
        row_bytes(name, 160)
    assert it.value.details["block_values"] == 256
    offered = it.value.hint.removeprefix("These can: ").removesuffix(".").split(", ")
    assert set(BYTES_OF_160) <= set(offered)
    assert not set(OF_256_ONLY) & set(offered)


@pytest.mark.parametrize("name", ["e4m3_e8m0_32_row264", "lloyd4_e5m3_32_r136"])
def test_encodings_of_whole_rows_have_one_width(name):
    assert row_bytes("Q4_K", 512) == 288
    for width in (0, 512):
        with pytest.raises(LayoutError, match="a row has 256"):
            row_bytes(name, width)
    with pytest.raises(LayoutError, match="bytes for a row"):
        row_encoding(name).decode(np.zeros((3, 2 * row_bytes(name, 256)), dtype=np.uint8))


def test_names():
    assert all(encoding.name == name for name, encoding in ROW_ENCODINGS.items())
    with pytest.raises(LayoutError, match="'Q9_9' is an unknown encoding") as it:
        row_encoding("Q9_9")
    offered = it.value.hint.removeprefix("Known are ").removesuffix(".").split(", ")
    assert {it.removeprefix("and names such as ") for it in offered} <= ROW_ENCODINGS.keys()
    with pytest.raises(CorruptFileError, match="conversion did not end"):
        row_encoding("conversion_underway")


@pytest.mark.parametrize("name", ROW_ENCODINGS)
def test_arrays_that_are_no_rows(name):
    encoding = row_encoding(name)
    blocks = 1 if encoding.is_row else 2
    tensors = [np.zeros((3, part.itemsize * blocks), dtype=np.uint8) for part in encoding.parts]
    assert encoding.decode(*tensors).shape == (3, blocks * encoding.block_values)
    none = [tensor[:0] for tensor in tensors]
    assert encoding.decode(*none).shape == (0, blocks * encoding.block_values)
    first, *others = tensors
    wrong = [
        (first[:, :0], *others),
        (first.astype(np.int16), *others),
        (first[0], *others),
        (*tensors, first),
        tuple(tensors[:-1]),
    ]
    if first.shape[1] // blocks > 1:
        wrong.append((first[:, :-1], *others))
    if others:
        wrong += [(first[:2], *others), (first, *(other[:, :1] for other in others))]
    for arrays in wrong:
        with pytest.raises(LayoutError, match=f"Rows of {name} have"):
            encoding.decode(*arrays)

"""Row encodings that are ggml types have the blocks that headers count by."""

import pytest

from engram.storage.ggml_types import TYPES
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS

BY_NAME = {kind.name: kind for kind in TYPES.values()}
SHARED = sorted(BY_NAME.keys() & ROW_ENCODINGS.keys())


@pytest.mark.parametrize("name", SHARED)
def test_blocks_have_equal_sizes(name):
    kind, encoding = BY_NAME[name], ROW_ENCODINGS[name]
    assert (encoding.block_values, encoding.block_bytes) == (kind.block_values, kind.block_bytes)


def test_all_types_of_published_tables_are_decoded():
    published = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "MXFP4"}
    published |= {f"Q{bits}_K" for bits in range(2, 7)}
    assert published <= set(SHARED)

"""The table of ggml's element types against the gguf package's."""

from __future__ import annotations

import gguf
import pytest

from engram.errors import InputError
from engram.storage.ggml_types import TYPES, type_named

REMOVED = (4, 5, 31, 32, 33, 36, 37, 38)


@pytest.mark.parametrize("known", gguf.GGMLQuantizationType, ids=lambda each: each.name)
def test_types_are_those_of_the_package(known):
    if known not in TYPES:
        assert known in REMOVED or known > max(TYPES), "an older type is missing"
        return
    found = TYPES[known]
    assert (found.id, found.name) == (known.value, known.name)
    assert (found.block_values, found.block_bytes) == gguf.GGML_QUANT_SIZES[known]


def test_most_types_are_compared():
    common = {each.value for each in gguf.GGMLQuantizationType} & set(TYPES)
    assert len(common) >= 30  # the oldest release lacks the newest ones
    assert list(TYPES) == sorted(TYPES)


def test_rows_are_whole_blocks():
    # One row of DeepSeek-V4.1's table, as its published files have it.
    widths = {"Q8_0": 272, "Q6_K": 210, "Q5_K": 176, "Q4_K": 144, "Q3_K": 110, "Q2_K": 84}
    widths |= {"IQ4_NL": 144, "MXFP4": 136, "BF16": 512, "F16": 512}
    assert {name: type_named(name).row_bytes(256) for name in widths} == widths
    assert type_named("I8").row_bytes(264) == 264
    assert type_named("q8_0").row_bytes(160) == 170
    assert type_named("Q4_K").row_bytes(160) is None


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'Q9_Z' is not a type of ggml") as error:
        type_named("Q9_Z")
    assert "MXFP4" in error.value.hint

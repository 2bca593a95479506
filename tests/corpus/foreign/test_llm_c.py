"""Shards of llm.c: documents by the token that begins them, and headers that lie."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.foreign.llm_c import read_llm_c
from engram.errors import CorruptFileError, InputError
from support import foreign_corpora as foreign
from support.paths import BPE

BOS, EOS = 0, 1


def bounds_of(*files, **tokens):
    shards = read_llm_c(files, replace(load_tokenizer(BPE), **tokens))
    assert [shard.name for shard in shards] == list(map(str, files))
    bounds = [shard.bounds.tolist() for shard in shards]
    return bounds if len(files) > 1 else bounds[0]


def test_documents_begin_with_the_mark_that_a_series_begins_with(tmp_path):
    path = foreign.llm_c(tmp_path / "x.bin", [[BOS, 5, EOS, 6], [BOS, 7], [BOS], [BOS, 8]])
    assert bounds_of(path) == [0, 4, 6, 7, 9]
    assert bounds_of(path, bos_id=None) == [0, 2, 9]
    assert bounds_of(path, bos_id=300) == [0, 2, 9]
    assert bounds_of(path, bos_id=300, eos_id=301) == [0, 9]


def test_a_start_of_text_token_amid_a_text_begins_no_document(tmp_path):
    path = foreign.llm_c(tmp_path / "x.bin", [[EOS, 5, BOS, 6], [EOS, 7]])
    assert bounds_of(path) == [0, 4, 6]


def test_one_mark_holds_for_a_whole_series(tmp_path):
    first = foreign.llm_c(tmp_path / "x_0.bin", [[EOS, 5], [EOS, 6, 7]])
    second = foreign.llm_c(tmp_path / "x_1.bin", [[EOS, 5, BOS, 6], [EOS, 7]])
    empty = foreign.llm_c(tmp_path / "x_2.bin", [])
    assert bounds_of(empty, first, second) == [[0], [0, 2, 5], [0, 4, 6]]
    first = foreign.llm_c(tmp_path / "x_0.bin", [[BOS, 5], [BOS, 6, 7]])
    second = foreign.llm_c(tmp_path / "x_1.bin", [[8, EOS, 9, 10]])
    assert bounds_of(first, second) == [[0, 2, 5], [0, 4]]


def test_a_document_that_goes_on_from_another_shard_is_one(tmp_path):
    assert bounds_of(foreign.llm_c(tmp_path / "x.bin", [[5, 6], [BOS, 7]])) == [0, 2, 4]


def test_a_mark_is_needed(tmp_path):
    path = foreign.llm_c(tmp_path / "x.bin", [[BOS, 5]])
    with pytest.raises(InputError, match="neither a start-of-text nor an end-of-text token"):
        bounds_of(path, bos_id=None, eos_id=None)


def header(*values):
    return struct.pack("<256i", *values, *[0] * (256 - len(values)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header(20240520, 1, 3) + bytes(4), "counts 3 tokens of 2 bytes, and 4 bytes follow"),
        (header(20240520, 1, 3) + bytes(8), "and 8 bytes follow"),
        (header(20240520, 1, 3) + bytes(5), "and 5 bytes follow"),
        (header(20240801, 7, 3) + bytes(6), "counts 3 tokens of 4 bytes, and 6 bytes follow"),
        (header(20240520, 1, -1) + bytes(4), "counts -1 tokens"),
        (header(20240520, 1, 3)[:1020], "header is not that of a shard"),
        (header(20240520, 1, 3)[:4], "header is not that of a shard"),
    ],
)
def test_a_lying_header_is_refused(tmp_path, data, said):
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    found = find_tokens(path)
    assert found.format == "llm.c"
    with pytest.raises(CorruptFileError, match=said):
        found.open(load_tokenizer(BPE))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header(20240520, 2, 2) + bytes(4), "version 2 .* of its magic 20240520 only 1 is known"),
        (header(20240801, 1, 1) + bytes(4), "version 1 .* only 7 is known"),
        (header(20240522, 1, 2) + bytes(4), "holds questions of an evaluation"),
    ],
)
def test_other_kinds_are_refused(tmp_path, data, said):
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        find_tokens(path).open(load_tokenizer(BPE))

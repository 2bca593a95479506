"""Columns of token ids in data sets: types of lists, torn files, and what cannot be mapped."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.foreign.find_tokens import find_tokens
from engram.errors import (
    CorruptFileError,
    EngramError,
    InputError,
    MissingFileError,
    MissingPackageError,
)
from support import foreign_corpora as foreign
from support.paths import BPE

DOCUMENTS = [[i, i + 1, *range(i % 5)] for i in range(100)]
FLAT = [token for document in DOCUMENTS for token in document]


def opened(folder):
    return find_tokens(folder).open(load_tokenizer(BPE))


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("of", [pa.list_, pa.large_list])
def test_lists_of_whole_numbers_of_any_type(tmp_path, kind, of):
    column = pa.array(DOCUMENTS, of(getattr(pa, kind)()))
    tokens = opened(foreign.dataset(tmp_path / "d", {"input_ids": column}, files=2))
    assert tokens.read(0, tokens.n_tokens)[0].tolist() == FLAT
    assert np.diff(tokens.boundaries()).tolist() == [len(it) for it in DOCUMENTS]


def test_blocks_of_equal_length(tmp_path):
    rows = [list(range(i, i + 8)) for i in range(50)]
    column = pa.array(rows, pa.list_(pa.int32(), 8))
    tokens = opened(foreign.dataset(tmp_path / "d", {"input_ids": column}, batch_rows=7))
    assert tokens.read(0, 400)[0].tolist() == [i for row in rows for i in row]
    assert tokens.boundaries().tolist() == list(range(0, 401, 8))


def test_other_columns_do_not_matter(tmp_path):
    columns = {
        "text": pa.array(["a"] * 100).dictionary_encode(),
        "input_ids": foreign.id_lists(DOCUMENTS),
        "attention_mask": pa.array([[1] * len(it) for it in DOCUMENTS]),
        "label": pa.array([None] * 100, pa.int64()),
    }
    tokens = opened(foreign.dataset(tmp_path / "d", columns))
    assert tokens.read(0, tokens.n_tokens)[0].tolist() == FLAT


@pytest.mark.parametrize(
    "column",
    [
        pa.array([*DOCUMENTS[:-1], None], pa.list_(pa.int32())),
        pa.array([*DOCUMENTS[:-1], [1, None]], pa.list_(pa.int32())),
        pa.array([[1, 2]] * 99 + [None], pa.list_(pa.int32(), 2)),
    ],
)
def test_rows_without_values_are_refused(tmp_path, column):
    with pytest.raises(InputError, match="lacks values in some rows"):
        opened(foreign.dataset(tmp_path / "d", {"input_ids": column}))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_tokens_are_refused(tmp_path, compression):
    long = [list(range(500))] * 30  # short ones are not compressed
    columns = {"input_ids": foreign.id_lists(long)}
    folder = foreign.dataset(tmp_path / "d", columns, compression=compression)
    with pytest.raises(InputError, match="is compressed"):
        opened(folder)


def test_a_file_that_breaks_off_anywhere_is_refused(tmp_path):
    folder = foreign.dataset(tmp_path / "d", {"input_ids": foreign.id_lists(DOCUMENTS)})
    (path,) = folder.glob("*.arrow")
    data = path.read_bytes()
    for size in {*range(0, len(data), 61), *range(len(data) - 20, len(data))}:
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFileError, match="is truncated or not a stream"):
            opened(folder)


def test_any_flipped_byte_ends_in_tokens_or_a_named_error(tmp_path):
    folder = foreign.dataset(tmp_path / "d", {"input_ids": foreign.id_lists(DOCUMENTS)})
    (path,) = folder.glob("*.arrow")
    data = path.read_bytes()
    rng = np.random.default_rng(3)
    outcomes = set()
    for at in rng.integers(0, len(data), 300):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            tokens = opened(folder) if find_tokens(folder) else None
            if tokens is not None:
                list(tokens.batches())
            outcomes.add("read")
        except EngramError as error:
            outcomes.add(type(error).__name__)
    assert {"read", "CorruptFileError"} <= outcomes


def test_files_of_a_data_set_are_those_of_its_state(tmp_path):
    columns = {"input_ids": foreign.id_lists(DOCUMENTS)}
    folder = foreign.dataset(tmp_path / "d", columns, files=3)
    (folder / "data-00001-of-00003.arrow").rename(tmp_path / "away")
    with pytest.raises(MissingFileError, match="data-00001-of-00003.arrow does not exist"):
        find_tokens(folder)
    state = folder / "state.json"
    for content in ("{", "{}", '{"_data_files": [{"filename": "../away"}]}'):
        state.write_text(content)
        with pytest.raises(CorruptFileError, match=r"state\.json"):
            find_tokens(folder)
    state.write_text(json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "i"}]}))
    with pytest.raises(InputError, match="a choice of rows"):
        find_tokens(folder)


def test_files_of_unlike_columns_are_refused(tmp_path):
    folder = foreign.dataset(tmp_path / "d", {"input_ids": foreign.id_lists(DOCUMENTS)}, files=2)
    other = foreign.dataset(tmp_path / "e", {"text": pa.array(["a"])})
    (folder / "data-00001-of-00002.arrow").write_bytes(
        (other / "data-00000-of-00001.arrow").read_bytes()
    )
    with pytest.raises(CorruptFileError, match="column 'input_ids' is not lists"):
        opened(folder)


def test_names_of_folders_need_not_be_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"d\xff\xfe")
    tokens = opened(foreign.dataset(folder, {"input_ids": foreign.id_lists(DOCUMENTS)}))
    assert tokens.read(0, tokens.n_tokens)[0].tolist() == FLAT


def test_pyarrow_is_needed(tmp_path, monkeypatch):
    folder = foreign.dataset(tmp_path / "d", {"input_ids": foreign.id_lists(DOCUMENTS)})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="needs the package pyarrow"):
        find_tokens(folder)

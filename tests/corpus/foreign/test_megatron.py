"""Megatron's indexed datasets: documents of several sequences, and every lie of an index."""

from __future__ import annotations

import struct

import pytest

from engram.corpus.foreign.megatron import read_megatron
from engram.errors import CorruptFileError, InputError, MissingFileError
from support import foreign_corpora as foreign

DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10]]
# Places of the parts of an index of these documents, each a sequence.
VERSION, CODE, SEQUENCES, ENTRIES = 9, 17, 18, 26
LENGTHS, POINTERS, FIRSTS = 34, 34 + 16, 34 + 16 + 32


def test_a_document_is_all_of_its_sequences(tmp_path):
    for pieces in (1, 2, 3):
        path = foreign.megatron(tmp_path / f"{pieces}", DOCUMENTS, pieces=pieces)
        shard = read_megatron(path)
        assert shard.tokens.tolist() == list(range(1, 11))
        assert shard.bounds.tolist() == [0, 3, 4, 8, 10]


@pytest.mark.parametrize(("code", "name"), [(1, "uint8"), (2, "int8"), (3, "int16"), (4, "int32"),
                                            (5, "int64"), (8, "uint16")])  # fmt: skip
def test_types_of_whole_numbers(tmp_path, code, name):
    shard = read_megatron(foreign.megatron(tmp_path / "x", DOCUMENTS, code))
    assert shard.tokens.dtype.name == name
    assert shard.tokens.tolist() == list(range(1, 11))


@pytest.mark.parametrize(("code", "name"), [(6, "float64"), (7, "float32")])
def test_types_of_vectors_are_refused(tmp_path, code, name):
    with pytest.raises(InputError, match=f"of type {name}, which cannot be token ids"):
        read_megatron(foreign.megatron(tmp_path / "x", DOCUMENTS, code))


def test_modes_of_text_alone_are_read(tmp_path):
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    index = path.with_suffix(".idx")
    plain = index.read_bytes()
    index.write_bytes(plain + bytes(4))
    assert read_megatron(path).bounds.tolist() == [0, 3, 4, 8, 10]
    index.write_bytes(plain + b"\0\1\0\0")
    with pytest.raises(InputError, match="is multimodal"):
        read_megatron(path)


def put(data, at, form, value):
    packed = struct.pack(form, value)
    return data[:at] + packed + data[at + len(packed) :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "does not begin as an index"),
        (lambda data: data[:33], "does not begin as an index"),
        (lambda data: b"MMIDIDY" + data[7:], "does not begin as an index"),
        (lambda data: put(data, CODE, "<B", 0), "type has the code 0; known are 1 to 8"),
        (lambda data: put(data, CODE, "<B", 9), "type has the code 9"),
        (lambda data: data[:-1], "and it has 121"),
        (lambda data: data + b"\0", "and it has 123"),
        (lambda data: data[:LENGTHS], "and it has 34"),
        (lambda data: put(data, SEQUENCES, "<Q", 5), "counts 5 sequences"),
        (lambda data: put(data, SEQUENCES, "<Q", 2**64 - 1), "counts 18,446,744,073,709,551,615"),
        (lambda data: put(data, ENTRIES, "<Q", 2**63), "9,223,372,036,854,775,808 boundaries"),
        (lambda data: put(data, LENGTHS, "<i", -3), "a sequence has a negative length"),
        (lambda data: put(data, LENGTHS, "<i", 2), "sequence 1 begins at byte 6, and the .* at 4"),
        (lambda data: put(data, LENGTHS, "<i", 2**31 - 1), "sequence 1 begins at byte 6"),
        (lambda data: put(data, LENGTHS + 12, "<i", 1), "lists 9 tokens of 2 bytes"),
        (lambda data: put(data, POINTERS, "<q", 2), "sequence 0 begins at byte 2"),
        (lambda data: put(data, POINTERS + 16, "<q", -8), "sequence 2 begins at byte -8"),
        (lambda data: put(data, FIRSTS, "<q", 1), "do not rise from sequence 0 to 4"),
        (lambda data: put(data, FIRSTS + 8, "<q", -1), "do not rise"),
        (lambda data: put(data, FIRSTS + 8, "<q", 3), "do not rise"),
        (lambda data: put(data, FIRSTS + 32, "<q", 3), "do not rise"),
        (lambda data: put(data, FIRSTS + 32, "<q", 2**62), "do not rise"),
    ],
)
def test_a_lying_index_is_refused(tmp_path, change, said):
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    index = path.with_suffix(".idx")
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(CorruptFileError, match=said) as caught:
        read_megatron(path)
    assert str(tmp_path / "x.") in caught.value.message
    assert caught.value.hint


def test_another_version_is_refused(tmp_path):
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    index = path.with_suffix(".idx")
    index.write_bytes(put(index.read_bytes(), VERSION, "<Q", 2))
    with pytest.raises(InputError, match="version 2 of Megatron's index; only 1 is known"):
        read_megatron(path)


def test_an_index_without_documents_is_refused(tmp_path):
    """Builders that never call end_document leave the first boundary alone."""
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    index = path.with_suffix(".idx")
    data = put(index.read_bytes(), ENTRIES, "<Q", 1)[: FIRSTS + 8]
    index.write_bytes(data)
    with pytest.raises(CorruptFileError, match="do not rise") as caught:
        read_megatron(path)
    assert "end_document()" in caught.value.hint


@pytest.mark.parametrize("size", [0, 19, 21, 22])
def test_tokens_that_do_not_fit_their_index_are_refused(tmp_path, size):
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(CorruptFileError, match=f"take 20 bytes, and it has {size}"):
        read_megatron(path)


def test_both_files_are_needed(tmp_path):
    path = foreign.megatron(tmp_path / "x", DOCUMENTS)
    path.with_suffix(".idx").rename(tmp_path / "y.idx")
    for file, missing in ((path, "x.idx"), (tmp_path / "y.idx", "y.bin")):
        with pytest.raises(MissingFileError, match=f"{missing} does not exist"):
            read_megatron(file)

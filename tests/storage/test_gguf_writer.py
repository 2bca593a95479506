"""Headers that are written are those that were read, and that the gguf package reads."""

import gguf
import numpy as np
import pytest

from engram.errors import InputError
from engram.storage.ggml_types import type_named
from engram.storage.gguf_headers import read_gguf
from engram.storage.gguf_writer import NewTensor, NewValue, header_of, padded_chunks
from support import gguf_files


def _write(path, values, tensors, alignment=32):
    made = [header_of(values, tensors, alignment)]
    path.write_bytes(b"".join([*made, *(make() for make in padded_chunks(tensors, alignment))]))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_kind_are_copied_as_they_are(tmp_path, version):
    nested = {**gguf_files.every_kind()}
    source = read_gguf(gguf_files.write(tmp_path / "a.gguf", nested, version=version))
    copy = read_gguf(_write(tmp_path / "b.gguf", source.values, []))
    assert list(copy.values) == list(source.values)
    for key, value in source.values.items():
        assert copy.values[key].described() == value.described()
        assert copy.values[key].packed() == value.packed()
    assert source.values["some.string"].texts() == copy.values["some.string"].texts()


def test_new_values_and_tensors_are_read_by_the_gguf_package(tmp_path):
    kinds = {
        key: NewValue(value.kind, list(value.items))
        if isinstance(value, gguf_files.Array)
        else NewValue(*value)
        for key, value in gguf_files.every_kind().items()
        if key != "some.string"  # its strings are too wild for the package
    }
    rows, row = np.arange(12, dtype="<f4").reshape(3, 4), np.arange(64, dtype="u1")
    tensors = [
        NewTensor("rows", (4, 3), type_named("F32").id, [lambda: rows[:1], lambda: rows[1:]]),
        NewTensor("bytes", (8, 8), type_named("I8").id, [lambda: row]),
    ]
    values = {**kinds, "general.alignment": NewValue("uint32", 64)}
    path = _write(tmp_path / "a.gguf", values, tensors, 64)
    read, own = gguf.GGUFReader(path), read_gguf(path)
    assert own.problems == ()
    assert own.tensors["bytes"].stop == path.stat().st_size
    found = {tensor.name: tensor.data for tensor in read.tensors}
    np.testing.assert_array_equal(found["rows"], rows)
    np.testing.assert_array_equal(found["bytes"].ravel(), row)
    for key, value in kinds.items():
        stored = read.fields[key].contents()
        expected = value.value if isinstance(value.value, list) else [value.value]
        stored = stored if isinstance(stored, list) else [stored]
        if value.kind != "string":
            np.testing.assert_array_equal(np.array(stored), np.array(expected, value.kind))


def test_numbers_beyond_their_type_are_refused():
    with pytest.raises(InputError, match="4294967296 is beyond uint32"):
        NewValue("uint32", [1, 2**32]).packed()


def test_rows_that_are_not_whole_blocks_are_refused():
    with pytest.raises(InputError, match="not whole blocks of Q8_0"):
        _ = NewTensor("rows", (40, 3), type_named("Q8_0").id, []).size_bytes

"""Headers of GGUF files: equal to the gguf package's reading, bounded, with problems named."""

from __future__ import annotations

import os
import sys
from time import perf_counter

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import CorruptFileError, InputError, MissingFileError
from engram.storage.gguf_headers import read_gguf, read_gguf_header
from support import gguf_files
from support.gguf_files import Array, Elsewhere, Tensor
from support.peak_memory import run_measured

ARCH = {"general.architecture": ("string", "deepseek41")}
SMALL = {**ARCH, "a.map": Array("uint32", [3, 1, 2]), "a.names": Array("string", ["x", "yz"])}
TENSORS = {
    "blk.1.engram_embd.weight": Tensor((264, 5), 24),
    "blk.1.engram_q.weight": Tensor((8, 4), 0),
    "blk.14.engram_embd.weight": Tensor((256, 3), 8),
}


def content_of(path, value, field):
    """Compare a value with the package's reading of it."""
    kinds = [kind.name.lower() for kind in field.types]
    assert value.is_array == (kinds[0] == "array")
    assert value.kind == kinds[-1]
    parts = [field.parts[index] for index in field.data]
    if value.kind == "string":
        texts = value.texts() if value.is_array else [value.scalar()]
        assert [text.encode() for text in texts] == [part.tobytes() for part in parts]
    elif value.is_array:
        assert value.numbers().tobytes() == np.concatenate(parts).tobytes()
        assert value.numbers().dtype == parts[0].dtype
        assert value.count == len(parts)
    else:
        assert parts[0].tolist() == [value.scalar()]
        assert type(value.scalar()) is type(parts[0].tolist()[0])


def equal_to_the_package(path):
    found, package = read_gguf(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in package.fields.items() if not key.startswith("GGUF.")}
    assert list(found.values) == list(fields)
    for key, field in fields.items():
        content_of(path, found.values[key], field)
    assert list(found.tensors) == [tensor.name for tensor in package.tensors]
    for tensor in package.tensors:
        ours = found.tensors[tensor.name]
        assert list(ours.dims) == tensor.shape.tolist()
        assert (ours.type_id, ours.type.name) == (tensor.tensor_type, tensor.tensor_type.name)
        assert (ours.start, ours.data_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert ours.size == tensor.n_elements
        assert ours.row_bytes * int(np.prod(tensor.shape[1:])) == tensor.n_bytes
    assert found.alignment == package.alignment
    assert found.data_start == package.data_offset
    assert (found.version, found.file_bytes) == (
        package.fields["GGUF.version"].parts[0][0],
        path.stat().st_size,
    )
    assert found.problems == ()
    return found


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 8, 32, 16384])
def test_headers_of_every_value_type_equal_the_packages_reading(tmp_path, version, alignment):
    values = gguf_files.every_kind()
    if alignment is not None:
        values["general.alignment"] = ("uint32", alignment)
    types = [known for known in gguf.GGMLQuantizationType if known < 42]
    tensors = {f"t.{known.name}": Tensor((512, 3, 2), known) for known in types}
    path = gguf_files.write(tmp_path / "all.gguf", values, tensors, version=version)
    assert equal_to_the_package(path).alignment == (alignment or 32)


def test_files_of_the_packages_writer_are_read_as_the_package_reads_them(tmp_path):
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "qwen4exp")
    kinds = gguf.GGUFValueType
    for key, value in gguf_files.every_kind().items():
        if isinstance(value, Array):
            sub = kinds[value.kind.upper()]
            writer.add_key_value(key, value.items, kinds.ARRAY, sub_type=sub)
        elif key != "general.architecture":
            writer.add_key_value(key, value[1], kinds[value[0].upper()])
    writer.add_custom_alignment(64)
    writer.add_tensor("w", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    rows = np.zeros((7, 34), np.uint8)
    writer.add_tensor("rows", rows, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = equal_to_the_package(path)
    assert found.tensors["w"].dims == (5, 4, 3)
    assert found.tensors["rows"].dims == (32, 7)


def test_values_keep_their_types_and_say_them(tmp_path):
    values = read_gguf(gguf_files.write(tmp_path / "a.gguf", gguf_files.every_kind())).values
    assert values["some.uint64"].described() == "uint64[3]"
    assert values["one.int16"].described() == "int16"
    assert values["some.uint64"].numbers().tolist() == [0, 1, 2**64 - 1]
    assert values["some.bool"].numbers().tolist() == [True, False, True]
    assert values["some.string"].texts()[1] == "Grüße \U0001f40d"
    for wrong, ask in (
        ("one.int8", "numbers"),
        ("some.int8", "scalar"),
        ("some.string", "numbers"),
        ("one.string", "texts"),
        ("some.int8", "texts"),
    ):
        with pytest.raises(InputError, match=f"{wrong} in .* must be .*, got") as error:
            getattr(values[wrong], ask)()
        assert error.value.details["key"] == wrong


def test_empty_arrays_long_strings_and_nothing_at_all(tmp_path):
    long = "ä" * 100_000
    values = {"none": Array("int64", []), "no": Array("string", []), "long": ("string", long)}
    found = read_gguf(gguf_files.write(tmp_path / "a.gguf", values))
    assert found.values["none"].numbers().tolist() == []
    assert found.values["none"].numbers().dtype == np.int64
    assert found.values["no"].texts() == []
    assert found.values["long"].scalar() == long
    assert read_gguf(gguf_files.write(tmp_path / "b.gguf", {})).tensors == {}


items = st.one_of(
    st.tuples(st.just("uint64"), st.lists(st.integers(0, 2**64 - 1))),
    st.tuples(st.just("int8"), st.lists(st.integers(-128, 127))),
    st.tuples(st.just("string"), st.lists(st.text())),
    st.tuples(st.just("bool"), st.lists(st.booleans())),
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1).filter(lambda key: key != "general.alignment"), items),
    st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 99), max_size=4)),
)
def test_a_written_header_is_read_back(values, dims):
    written = [(key, Array(kind, each)) for key, (kind, each) in values.items()]
    tensors = {name: Tensor(sizes, 26) for name, sizes in dims.items()}
    content, data_bytes = gguf_files.header(written, [*tensors.items()])
    found = read_gguf_header(Elsewhere(content, len(content) + data_bytes))
    for key, (kind, each) in values.items():
        value = found.values[key]
        assert (value.kind, value.count) == (kind, len(each))
        assert (value.texts() if kind == "string" else value.numbers().tolist()) == each
    assert {name: list(each.dims) for name, each in found.tensors.items()} == dims
    assert found.data_start == len(content)
    assert found.problems == ()


def test_a_header_over_a_huge_file_is_read_alone(tmp_path):
    path = gguf_files.write(
        tmp_path / "v41.gguf", gguf_files.v41_values(), gguf_files.v41_tensors()
    )
    assert path.stat().st_size > 200e9
    script = (
        "import sys, pathlib; from engram.storage.gguf_headers import read_gguf\n"
        "found = read_gguf(pathlib.Path(sys.argv[1]))\n"
        "print(found.tensors['blk.14.engram_embd.weight'].stop, found.file_bytes,"
        " 'numpy' in sys.modules)"
    )
    done, peak_bytes = run_measured([sys.executable, "-c", script, str(path)], tmp_path)
    stop, file_bytes, has_numpy = done.stdout.decode().split()
    assert 0 <= int(file_bytes) - int(stop) < 16384
    assert has_numpy == "False"
    assert peak_bytes < 60e6
    start = perf_counter()
    found = read_gguf(path)
    assert perf_counter() - start < 2  # 0.1 s on a free machine
    assert found.problems == ()
    assert found.data_start % 16384 == 0
    assert found.values["tokenizer.ggml.merges"].count == 127741
    assert found.values["tokenizer.ggml.merges"].texts()[-1] == "token 000127740"
    assert int(found.values["deepseek41.engram.token_map"].numbers()[-1]) == 129279 % 99092


def test_a_file_elsewhere_is_read_little_beyond_its_header():
    content, data_bytes = gguf_files.header(
        [*gguf_files.v41_values().items()], [*gguf_files.v41_tensors().items()], alignment=16384
    )
    source = Elsewhere(content, len(content) + data_bytes)
    found = read_gguf_header(source)
    assert found.path == source.path
    assert max(offset + count for offset, count in source.reads) < len(content) + 2**20
    assert sum(count for _, count in source.reads) < len(content)  # arrays of numbers are skipped
    assert len(source.reads) < 20
    before = len(source.reads)
    assert found.values["deepseek41.engram.multipliers"].numbers().tolist()[0] == 2**45 + 1
    assert found.values["general.architecture"].scalar() == "deepseek41"
    assert len(source.reads) == before, "short values were kept"
    found.values["deepseek41.engram.token_map"].numbers()
    assert source.reads[before:] == [(found.values["deepseek41.engram.token_map"].start, 517120)]


def test_an_unknown_element_type_is_reported(tmp_path):
    tensors = {"a": Tensor((32, 32), 142, bytes=1152), **TENSORS}
    found = read_gguf(gguf_files.write(tmp_path / "a.gguf", ARCH, tensors))
    unknown = found.tensors["a"]
    assert (unknown.type, unknown.type_id) == (None, 142)
    assert (unknown.data_bytes, unknown.row_bytes, unknown.stop) == (None, None, None)
    assert unknown.dims == (32, 32)
    assert [(each.code, each.name) for each in found.problems] == [("UNKNOWN_TYPE", "a")]
    assert "142" in found.problems[0].message
    assert found.tensors["blk.1.engram_q.weight"].start % 32 == 0


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"missing_bytes": 33}, {"blk.14.engram_embd.weight": "HALF_DONE"}),
        ({"missing_bytes": 16}, {}),  # padding alone
        (
            {"offset": lambda index, right: right + 4 * (index == 1)},
            {"blk.1.engram_q.weight": "UNALIGNED", "blk.14.engram_embd.weight": "NOT_CONSECUTIVE"},
        ),
        (
            {"offset": lambda index, right: right + 32 * (index >= 1), "missing_bytes": -64},
            {"blk.1.engram_q.weight": "NOT_CONSECUTIVE"},
        ),
        (
            {"offset": lambda index, right: 0},
            {"blk.1.engram_q.weight": "NOT_CONSECUTIVE", "blk.14.engram_embd.weight": "-"},
        ),
    ],
)
def test_problems_are_named_where_the_header_can_be_read(tmp_path, changes, codes):
    found = read_gguf(gguf_files.write(tmp_path / "a.gguf", SMALL, TENSORS, **changes))
    assert list(found.tensors) == list(TENSORS)
    names = {each.name: each.code for each in found.problems}
    assert names == {
        name: "NOT_CONSECUTIVE" if code == "-" else code for name, code in codes.items()
    }


def test_rows_that_are_not_whole_blocks_nested_arrays_and_foreign_text(tmp_path):
    nested = Array("array", [Array("uint8", [1, 2]), Array("string", ["a", "bc"])])
    values = {
        "deep": Array("array", [Array("array", [nested, nested]), Array("array", [])]),
        "author": ("string", b"Ren\xe9"),
        "tokens": Array("string", ["ok", b"\xff"]),
        "last": ("uint8", 7),
    }
    tensors = {"a": Tensor((160, 2), 12, bytes=288)}
    found = read_gguf(gguf_files.write(tmp_path / "a.gguf", values, tensors))
    codes = [(each.code, each.name) for each in found.problems]
    assert codes == [("NESTED_ARRAY", "deep"), ("NOT_UTF8", "author"), ("PARTIAL_BLOCK", "a")]
    assert found.values["deep"].described() == "array[2]"
    assert found.values["last"].scalar() == 7
    assert found.tensors["a"].row_bytes is None
    for ask in (found.values["author"].scalar, found.values["tokens"].texts):
        with pytest.raises(CorruptFileError, match="not UTF-8") as error:
            ask()
        assert error.value.details["offset"] > 0
    with pytest.raises(InputError, match=r"deep .*array\[2\]"):
        found.values["deep"].numbers()


def test_files_that_are_not_there_or_cannot_be_read(tmp_path):
    with pytest.raises(MissingFileError, match="No such file"):
        read_gguf(tmp_path / "a.gguf")
    with pytest.raises(MissingFileError, match="is not a file"):
        read_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(MissingFileError, match="is not a file"):
        read_gguf(tmp_path / "pipe.gguf")


def test_a_file_that_became_shorter_after_it_was_read(tmp_path):
    values = {"k": Array("uint32", range(50_000))}
    path = gguf_files.write(tmp_path / "a.gguf", values)
    found = read_gguf(path)
    os.truncate(path, 1000)
    with pytest.raises(CorruptFileError, match="ends inside of k"):
        found.values["k"].numbers()
    path.unlink()
    with pytest.raises(MissingFileError, match="cannot be read"):
        found.values["k"].numbers()

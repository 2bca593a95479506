"""Models in GGUF that are split into parts: found from any of them, joined, and compared."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from engram.errors import CorruptFileError, InputError, MissingFileError
from engram.storage.gguf_parts import part_names, read_gguf_parts
from support import gguf_files
from support.gguf_files import Array, Tensor

VALUES = {"general.architecture": ("string", "deepseek41"), "m": Array("uint64", [5, 7])}
PARTS = [
    {},
    {"blk.1.engram_embd.weight": Tensor((256, 384006168), 39)},
    {"blk.1.engram_q.weight": Tensor((5120, 4), 0), "a": Tensor((32, 2), 8)},
]


def codes(found):
    return [(each.code, each.path.name) for each in found.problems]


@pytest.mark.parametrize("given", [0, 1, 2, None])
def test_any_part_or_the_folder_finds_the_others(tmp_path, given):
    paths = gguf_files.write_parts(tmp_path, VALUES, PARTS)
    found = read_gguf_parts(tmp_path if given is None else paths[given])
    assert [part.path for part in found.parts] == paths
    assert found.values["m"].numbers().tolist() == [5, 7]
    where = {name: tensor.path for name, tensor in found.tensors.items()}
    assert where == {name: path for path, part in zip(paths, PARTS, strict=True) for name in part}
    table = found.tensors["blk.1.engram_embd.weight"]
    assert (table.row_bytes, table.data_bytes) == (136, 136 * 384006168)
    assert found.problems == ()


def test_parts_of_the_packages_writer(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "deepseek41", split_max_tensors=2)
    for index in range(5):
        writer.add_tensor(f"t{index}", np.full((3, 8), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf_parts(tmp_path)
    assert [part.path.name for part in found.parts] == list(part_names("m-00001-of-00003.gguf"))
    assert found.problems == ()
    for index in range(5):
        tensor = found.tensors[f"t{index}"]
        with tensor.path.open("rb") as file:
            file.seek(tensor.start)
            stored = np.frombuffer(file.read(tensor.data_bytes), "<f4")
        assert stored.tolist() == [index] * 24


def test_a_file_that_is_not_split(tmp_path):
    path = gguf_files.write(tmp_path / "a.gguf", VALUES, PARTS[2])
    for given in (path, tmp_path):
        found = read_gguf_parts(given)
        assert [part.path for part in found.parts] == [path]
        assert list(found.tensors) == list(PARTS[2])
        assert found.problems == ()


def test_names_of_parts():
    assert part_names("x-00002-of-00002.gguf") == ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf")
    for name in ("x.gguf", "x-00003-of-00002.gguf", "x-00000-of-00002.gguf", "x-1-of-2.gguf"):
        assert part_names(name) == (name,)


def test_a_missing_part_is_named_unless_the_first_alone_is_asked_for(tmp_path):
    paths = gguf_files.write_parts(tmp_path, VALUES, PARTS)
    paths[1].unlink()
    with pytest.raises(MissingFileError, match="in 3 parts, and model-00002-of-00003") as error:
        read_gguf_parts(paths[2])
    assert error.value.details["missing"] == [paths[1].name]
    found = read_gguf_parts(paths[2], first_only=True)
    assert [part.path for part in found.parts] == paths[:1]
    assert found.values["m"].count == 2
    assert found.problems == ()
    paths[0].unlink()
    with pytest.raises(MissingFileError, match=r"00001-of-00003.gguf is not there, nor are 1 more"):
        read_gguf_parts(paths[2])
    with pytest.raises(MissingFileError, match="00001-of-00003"):
        read_gguf_parts(paths[2], first_only=True)


def test_counts_that_disagree_are_named(tmp_path):
    def split(name, **changed):
        (tmp_path / name).mkdir()
        gguf_files.write_parts(tmp_path / name, VALUES, PARTS, **changed)
        return codes(read_gguf_parts(tmp_path / name))

    names = part_names("model-00001-of-00003.gguf")
    assert split("total", total=9) == [("SPLIT_TENSORS", name) for name in names]
    assert split("count", split_count=2) == [("SPLIT_COUNT", name) for name in names]
    assert split("number", split_no=1) == [("SPLIT_NO", names[0]), ("SPLIT_NO", names[2])]
    path = tmp_path / "total" / names[0]
    alone = path.rename(path.with_name("renamed.gguf"))
    assert codes(read_gguf_parts(alone)) == [("SPLIT_NAME", "renamed.gguf")]
    bare = gguf_files.write(tmp_path / "b-00001-of-00001.gguf", VALUES)
    assert codes(read_gguf_parts(bare)) == []


def test_parts_without_split_keys_are_named(tmp_path):
    names = part_names("b-00001-of-00002.gguf")
    for name, part in zip(names, PARTS[1:], strict=True):
        gguf_files.write(tmp_path / name, VALUES, part)
    found = read_gguf_parts(tmp_path)
    assert len(found.tensors) == 3
    kinds = ("SPLIT_COUNT", "SPLIT_NO", "SPLIT_TENSORS")
    assert codes(found) == [(kind, name) for name in names for kind in kinds]


def test_a_truncated_part_is_named(tmp_path):
    paths = gguf_files.write_parts(tmp_path, VALUES, PARTS)
    with paths[1].open("rb+") as file:
        file.truncate(10**9)
    assert codes(read_gguf_parts(tmp_path)) == [("HALF_DONE", paths[1].name)]


def test_one_tensor_in_two_parts_is_refused(tmp_path):
    gguf_files.write_parts(tmp_path, VALUES, [PARTS[2], PARTS[2]])
    with pytest.raises(CorruptFileError, match="has the tensor blk.1.engram_q.weight, as has"):
        read_gguf_parts(tmp_path)


def test_a_folder_of_several_models_or_of_none(tmp_path):
    with pytest.raises(MissingFileError, match="has no GGUF file"):
        read_gguf_parts(tmp_path)
    gguf_files.write_parts(tmp_path, VALUES, PARTS)
    gguf_files.write(tmp_path / "other.gguf", VALUES)
    with pytest.raises(InputError, match="has 2 models") as error:
        read_gguf_parts(tmp_path)
    assert "model-00001-of-00003.gguf, other.gguf" in error.value.hint

"""Files that are to load in an engine: its names, types and pads, or the reason why not."""

from __future__ import annotations

import pytest

import engram
from engram.checkpoints.convert.gguf_repair import repair_gguf
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import NoError, UsageError
from engram.layouts.gguf_dialects import dialects_of, engine_names
from support import gguf_files
from support.gguf_faults import codes, facts_of
from support.gguf_files import Array
from support.gguf_memories import BY_NAME, write_memory
from support.gguf_repairs import contents, parts_of, refused

V41 = [name for name in sorted(BY_NAME) if BY_NAME[name].layout == "deepseek_v41"]
WITH_TABLES = [name for name in V41 if BY_NAME[name].table is not None]
# Engines whose loaders take the rows of a dialect: their names and types are mended.
TAKEN = {
    "gguf_ds4": {"ds4"},
    "gguf_tarruda": {"tarruda", "jig"},
    "gguf_jig": {"tarruda", "jig"},
    "gguf_llama": {"llama.cpp", "ik", "buckets", "kmbandy"},
    "gguf_buckets": {"llama.cpp", "ik", "buckets", "kmbandy"},
    "gguf_kmbandy": {"llama.cpp", "ik", "buckets", "kmbandy"},
    "gguf_mx": {"mx", "llama.cpp", "ik", "buckets", "kmbandy"},
}


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("name", WITH_TABLES)
def test_from_each_dialect_to_each_engine(name, engine, tmp_path):
    source, output, right = (tmp_path / f"{it}.gguf" for it in ("source", "output", "right"))
    write_memory(source, name)
    (dialect,) = (it for it in dialects_of(engine) if it.layout == "deepseek_v41")
    if engine not in TAKEN[name]:
        found = refused(tmp_path, NoError, source, engine=engine).details["codes"]
        assert set(found) <= {"ROW_TYPE", "TENSOR_MISSING", "CONST_MISSING"}
        assert {"ROW_TYPE", "TENSOR_MISSING"} & set(found)
        return
    result = repair_gguf(source, output, engine=engine)
    assert result.written is (dialect.name != name)
    assert result.dialect == dialect.name
    if result.written:
        assert engram.verify(output, engine=engine).ok
        assert open_gguf(output).dialect.name == dialect.name
        row_type = ("MXFP4", 256) if name == "gguf_mx" else None
        write_memory(right, dialect.name, row_type=row_type)
        assert _numbers(output) == _numbers(right)
        assert contents(output)[1] == contents(right)[1]


def _numbers(path):
    """Values of keys, whatever type of those that loaders take they have."""
    return {
        key: it.items if isinstance(it, Array) else it[1] for key, it in parts_of(path)[0].items()
    }


def test_every_dialect_with_tables_is_tested():
    assert set(TAKEN) == set(WITH_TABLES)


@pytest.mark.parametrize("name", ["gguf_llama", "gguf_mx"])
def test_pads_move_to_the_space_of_the_engine(name, tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    token_map = list(facts_of(name)["token_map"])
    token_map[2], token_map[5] = 5, 2
    is_raw = BY_NAME[name].pad_is_raw
    changed = {"token_map": token_map, "pad_id": 2 if is_raw else 5}
    write_memory(source, name, changed=changed)
    assert codes(source) == set()
    repair_gguf(source, output, engine="ik" if is_raw else "buckets")
    assert open_gguf(output).integer("pad_id") == (5 if is_raw else 2)
    assert codes(output) == set()


@pytest.mark.parametrize("name", WITH_TABLES)
def test_pads_of_the_other_space(name, tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    token_map = list(facts_of(name)["token_map"])
    token_map[2], token_map[5] = 5, 2
    right, other = (2, 5) if BY_NAME[name].pad_is_raw else (5, 2)
    write_memory(source, name, changed={"token_map": token_map, "pad_id": other})
    assert codes(source) == {"PAD_SPACE"}
    repair_gguf(source, output)
    assert open_gguf(output).integer("pad_id") == right
    assert codes(output) == set()


def test_first_uploads_under_another_architecture(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    whole = write_memory(tmp_path / "whole.gguf", "gguf_llama", values=_base("deepseek41"))
    values, tensors = parts_of(whole)
    old = {key.replace("deepseek41.", "deepseek4."): value for key, value in values.items()}
    old["general.architecture"] = ("string", "deepseek4")
    gguf_files.write(source, old, tensors)
    assert codes(source, engine="llama.cpp") >= {"ARCHITECTURE"}
    repair_gguf(source, output, engine="llama.cpp")
    assert contents(output) == contents(whole)


def _base(prefix):
    return {
        f"{prefix}.block_count": ("uint32", 40),
        f"{prefix}.expert_used_count": ("uint32", 8),
        "tokenizer.ggml.tokens": Array("string", ["t"] * 1000),
    }


def test_widths_that_are_stated(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    write_memory(source, "gguf_llama", changed={"row_width": 128})
    assert codes(source) == codes(source, engine="llama.cpp") == {"ENCODING_WIDTH"}
    repair_gguf(source, output, engine="llama.cpp")
    assert open_gguf(output).integer("row_width") == 256
    assert engram.verify(output, engine="llama.cpp").ok


def test_old_scales_beside_requantised_rows_are_left_to_those_who_read_them(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    write_memory(source, "gguf_tarruda", row_type=("Q8_0", 256))
    result = repair_gguf(source, output, engine="llama.cpp")
    assert engram.verify(output, engine="llama.cpp").ok
    removed = {it.name for it in result.changes if it.action == "removed"}
    assert "blk.1.engram_embd_scale.weight" in removed


@pytest.mark.parametrize("name", [name for name in V41 if name not in WITH_TABLES])
def test_tables_that_are_elsewhere(name, tmp_path):
    source = write_memory(tmp_path / "source.gguf", name)
    error = refused(tmp_path, NoError, source, engine="llama.cpp")
    assert error.details["codes"] == ["TENSOR_MISSING"]


def test_engines_of_another_layout(tmp_path):
    path = write_memory(tmp_path / "source.gguf", "gguf_qwen4exp")
    with pytest.raises(UsageError, match="not known to read"):
        repair_gguf(path, tmp_path / "output.gguf", engine="ds4")

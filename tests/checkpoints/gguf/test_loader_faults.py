"""Loaders of engines: each takes the files of its own dialect, and what others lack is named."""

from __future__ import annotations

import pytest

import engram
from engram.errors import MissingFileError, UsageError
from engram.layouts.gguf_dialects import engine_names
from support.cli import run
from support.gguf_memories import write_filled, write_memory

ENGINES = {
    "ds4": "gguf_ds4",
    "llama.cpp": "gguf_llama",
    "ik": "gguf_llama",
    "mx": "gguf_mx",
    "tarruda": "gguf_tarruda",
    "jig": "gguf_jig",
    "kmbandy": "gguf_kmbandy",
    "buckets": "gguf_buckets",
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_reads_files_of_its_own_dialect_alone(engine, tmp_path):
    path = tmp_path / "model.gguf"
    for name in ENGINES.values():
        write_memory(path, name)
        *_, check = engram.verify(path, engine=engine)
        assert check.name == f"loads in {engine}"
        assert check.ok is (name == ENGINES[engine]), (name, check.detail)


def test_every_engine_is_tested():
    assert set(ENGINES) == set(engine_names())


def test_the_same_name_has_two_element_types(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    faults = list(engram.verify(path, engine="llama.cpp"))[-1].faults
    assert {fault["code"] for fault in faults} == {
        *("PRIMES_TYPE", "CONST_MISSING", "NAME_MISMATCH", "ROW_TYPE")
    }
    said = "\n".join(fault["message"] for fault in faults)
    assert "deepseek41.engram.primes is uint32[48]" in said
    assert "it lacks deepseek41.engram.offsets (uint64)" in said
    assert "blk.1.engram_kv.weight is what gguf_llama calls blk.1.engram_wkv.weight" in said
    assert "rows of blk.1.engram_embd.weight are e4m3_e8m0_32_row264" in said
    assert "it lacks deepseek41.engram.key_length (uint32)" in said


def test_sizes_that_an_engine_was_compiled_for(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_ds4")
    (fault,) = list(engram.verify(path, engine="ds4"))[-1].faults
    assert fault["code"] == "SIZES_FIXED"
    assert "compiled for (2, 4, 8)" in fault["message"]


def test_memories_that_an_engine_may_not_know(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_qwen4exp")
    *_, check = engram.verify(path, engine="ds4")
    assert check.ok is None
    *_, check = engram.verify(path, engine="llama.cpp")
    assert check.ok
    with pytest.raises(UsageError, match="unknown engine") as error:
        engram.verify(path, engine="torch")
    assert "llama.cpp" in error.value.hint
    path.unlink()
    with pytest.raises(UsageError, match="not a GGUF file"):
        engram.verify(tmp_path, engine="ds4")
    with pytest.raises(MissingFileError, match="does not exist"):
        engram.verify(path, engine="ds4")


def test_what_a_loader_refuses_is_not_called_right(tmp_path):
    path = tmp_path / "model.gguf"

    def last(**changes):
        name, engine = changes.pop("name"), changes.pop("engine")
        write_memory(path, name, **changes)
        return {fault["code"] for fault in [*engram.verify(path, engine=engine)][-1].faults}

    llama = {"name": "gguf_llama", "engine": "llama.cpp"}
    ds4 = {"name": "gguf_ds4", "engine": "ds4"}
    assert last(**llama, prefix="deepseek4") == {"PREFIX_WRONG"}
    assert last(**llama, changed={"row_width": 128}) == {"ENCODING_WIDTH"}
    assert last(**ds4, changed={"encoding": "lloyd4_e5m3_32_r136"}) == {"ROW_TYPE"}
    assert last(**ds4, without=("encoding",)) == {"CONST_MISSING", "ROW_TYPE"}
    assert last(**ds4, without=("rows",)) == {"CONST_MISSING"}
    dead = {"changed": {"token_map": [-1] * 1000}, "kinds": {"token_map": "int32"}}
    assert last(**ds4, **dead) == {"TYPE_WRONG"}


def test_every_fault_has_a_line_of_its_own(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    code, out, _ = run("verify", path, "--target", "llama.cpp", columns=200)
    assert code == 5
    _, _, told = out.partition("loads in llama.cpp")
    starts = [line.split(":")[0].split()[-1] for line in told.splitlines() if ": " in line]
    assert starts.count("NAME_MISMATCH") == 6
    assert starts.count("ROW_TYPE") == 2

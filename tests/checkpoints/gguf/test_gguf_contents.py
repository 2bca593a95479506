"""Contents of GGUF files: exact to the byte in every dialect, from headers alone."""

from __future__ import annotations

import json
import time

import pytest

import engram
from engram.checkpoints.gguf.gguf_contents import inspect_gguf
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import CorruptFileError, InputError, MissingFileError, UsageError
from support.cli import command, run
from support.gguf_files import Array, Tensor, write, write_parts
from support.gguf_memories import BY_NAME, ROWS, constants, write_memory
from support.peak_memory import run_measured

WITH_TABLES = sorted(name for name, it in BY_NAME.items() if it.table is not None)
ROW_BYTES = {"gguf_ds4": 264, "gguf_tarruda": 264, "gguf_jig": 264, "gguf_mx": 136}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_bytes_and_constants_of_every_dialect(name, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name)
    found, dialect = inspect_gguf(path), BY_NAME[name]
    assert found.gguf["dialect"] == name
    assert found.layout == dialect.layout
    stated = constants(dialect.layout)
    if "layer_ids" in dialect.facts:
        assert found.gguf["layer_ids"] == stated["layer_ids"]
    assert set(found.gguf["types"]) == set(dialect.facts)
    assert found.gguf["missing"] == []
    assert found.gguf["problems"] == []
    if dialect.table is None:
        assert found.gguf["tables"] == []
        assert found.gguf["gathered_bytes"] == 0
        assert any("hold no table" in note for note in found.notes)
    else:
        row_bytes = {"gguf_qwen4exp": 90, **ROW_BYTES}.get(name, 272)
        assert found.gguf["gathered_bytes"] == sum(stated["rows"]) * row_bytes
        for table, rows in zip(found.gguf["tables"], stated["rows"], strict=True):
            assert (table["rows"], table["row_bytes"]) == (rows, row_bytes)
            assert table["start"] % found.gguf["alignment"] == 0
        columns = 16 if dialect.layout == "qwen_ple" else 24
        tables = [part for part in found.weights if part.group == "table"]
        assert [part.reads for part in tables] == [columns] * len(tables)
        # Constants that are tensors hold no numbers that a header tells.
        primes = dialect.facts.get("primes")
        if primes is None or not primes.is_tensor:
            reached = "rows" if primes is None else "primes"
            assert sum(found.hash_rows.values()) == sum(stated[reached])
    memory = open_gguf(path)
    tensors = [*memory.files.tensors.values(), *filter(None, map(memory.value, dialect.facts))]
    sizes = [it.data_bytes if hasattr(it, "dims") else it.stop - it.start for it in tensors]
    assert sum(part.size_bytes for part in found.weights) == sum(sizes)


def test_a_file_of_190_gb_is_reported_at_once(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    assert path.stat().st_size > 190e9
    done, peak_bytes = run_measured(command("report", path, "--json"), tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert peak_bytes < 150e6
    begin = time.perf_counter()
    answer = engram.report(path).to_dict()
    assert time.perf_counter() - begin < 1
    assert json.loads(done.stdout) == json.loads(json.dumps(answer))
    assert answer["totals"]["table_bytes"] == 202_758_032_400
    assert answer["reads"]["rows_per_token"] == 48
    assert answer["training"] == []
    shown = run("report", path)[1]
    for text in ("Dialect gguf_ds4", "e4m3_e8m0_32_row264", "384,006,168", "uint32[48]"):
        assert text in shown


def test_what_is_missing_is_named_with_its_place(tmp_path):
    lacking = ("multipliers", "primes", "offsets", "token_map", "pad_id")
    path = write_memory(tmp_path / "model.gguf", "gguf_llama", without=lacking)
    found = inspect_gguf(path).gguf
    assert found["dialect"] == "gguf_llama"
    assert {it["constant"]: it["place"] for it in found["missing"]} == {
        name: f"engram.{name}" for name in lacking
    }
    assert "Missing: engram.pad_id, engram.token_map" in run("report", path)[1]


def test_types_are_those_that_were_found(tmp_path):
    values = {
        "general.architecture": ("string", "deepseek41"),
        "deepseek4.engram.layer_ids": Array("int64", [1, 14]),
        "deepseek4.engram.pad_id": ("string", "two"),
        "deepseek4.engram.primes": Array("float32", [2.0, 3.0]),
    }
    table = {"blk.1.engram_embd.weight": Tensor((256, 30), 12)}
    memory = open_gguf(write(tmp_path / "model.gguf", values, table))
    assert memory.stated_types["layer_ids"] == "int64[2]"
    assert memory.stated_types["primes"] == "float32[2]"
    assert memory.prefixes == ("deepseek4",)
    assert memory.architecture == "deepseek41"
    assert memory.layer_ids == (1, 14)
    assert memory.integers("primes") is memory.integer("pad_id") is memory.orders is None
    assert inspect_gguf(tmp_path / "model.gguf").hash_rows == {1: 30}


def test_tensors_of_an_unknown_type_count_up_to_the_next_one(tmp_path):
    more = {"blk.3.odd.weight": Tensor((64, 100), 142, bytes=4096)}
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4", tensors=more)
    found = inspect_gguf(path)
    assert any("blk.3.odd.weight" in note for note in found.notes)
    (base,) = (part for part in found.weights if part.group == "base")
    assert base.kind == "estimated"
    assert base.size_bytes >= 4096
    assert "UNKNOWN_TYPE" in [it["code"] for it in found.gguf["problems"]]


def test_a_file_that_is_half_there_is_told(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_llama", missing_bytes=10**9)
    (problem,) = inspect_gguf(path).gguf["problems"]
    assert problem["code"] == "HALF_DONE"
    assert problem["name"] == "blk.14.engram_embd.weight"


def test_parts_are_read_as_one_file(tmp_path):
    whole = write_memory(tmp_path / "whole.gguf", "gguf_mx")
    memory = open_gguf(whole)
    values = {
        key: Array(it.kind, it.numbers().tolist()) if it.is_array else (it.kind, it.scalar())
        for key, it in memory.files.values.items()
    }
    tables = {it.values.name: Tensor(it.values.dims, it.values.type_id) for it in memory.tables}
    rest = {
        name: Tensor(it.dims, it.type_id)
        for name, it in memory.files.tensors.items()
        if name not in tables
    }
    folder = tmp_path / "parts"
    folder.mkdir()
    paths = write_parts(folder, values, [rest, tables])
    expected = inspect_gguf(whole).gguf
    for target in (folder, *paths):
        found = inspect_gguf(target).gguf
        assert len(found["files"]) == 2
        for key in ("types", "gathered_bytes", "resident_bytes", "layer_ids", "missing"):
            assert found[key] == expected[key]
        assert {table["file"] for table in found["tables"]} == {paths[1].name}
    paths[1].unlink()
    with pytest.raises(MissingFileError, match="00002-of-00002"):
        inspect_gguf(paths[0])


def test_files_that_are_not_read_are_refused(tmp_path):
    plain = write(tmp_path / "plain.gguf", {"general.architecture": ("string", "llama")})
    with pytest.raises(InputError, match="of architecture llama without a memory"):
        inspect_gguf(plain)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(CorruptFileError, match=r"torn\.gguf"):
        inspect_gguf(torn)
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    for options, model in (
        (engram.ReportOptions(dtype="bf16"), None),
        (engram.ReportOptions(), "gpt2"),
        (engram.ReportOptions(mode="training", optimizer="rowwise-adagrad"), None),
    ):
        with pytest.raises(UsageError, match="GGUF file"):
            engram.report(path, model, options)


def test_known_rows_have_the_encodings_of_their_dialects(tmp_path):
    for name in WITH_TABLES:
        path = write_memory(tmp_path / f"{name}.gguf", name)
        (encoding,) = {table["encoding"] for table in inspect_gguf(path).gguf["tables"]}
        kind = ROWS.get(name, ("Q8_0", 256))[0]
        expected = {"gguf_ds4": "e4m3_e8m0_32_row264"}.get(name, "e4m3_e8m0_32")
        assert encoding == (expected if kind == "I8" else kind)

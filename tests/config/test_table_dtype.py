"""The dtype of tables: what is planned, what is written and what is reported are one number."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.detach import detach
from engram.checkpoints.attach.initial_values import CHUNK_VALUES, table_chunks
from engram.checkpoints.attach.proof import max_logit_difference
from engram.checkpoints.verify.verify import verify
from engram.config.config_file import read_config, write_config
from engram.errors import LayoutError
from engram.nn.quantised import FORMATS
from engram.storage.stored import read_folder_headers
from engram.tensor_names import SCALE, TABLE
from support import tiny
from support.cli import run

BASES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {name: tiny.base_model("llama", root / name, dtype) for name, dtype in BASES.items()}


def stored_bytes(folder):
    """Bytes of tables with scales, of the modules around them, and of constants, in files."""
    sizes = {"table": 0, "dense": 0, "constants": 0}
    for name, info in read_folder_headers(folder).items():
        if ".engram." in name:
            part = "table" if name.endswith((TABLE, SCALE)) else "dense"
            part = "constants" if info.dtype in ("I32", "I64") else part
            sizes[part] += info.stop - info.start
    return sizes.values()


@pytest.mark.parametrize("base_dtype", BASES)
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "fp8", "int8"])
def test_plan_bytes_on_disk_and_reports_agree(bases, tmp_path, base_dtype, dtype):
    base, config, folder = bases[base_dtype], tmp_path / "memory.yaml", tmp_path / "attached"
    asked = [] if dtype is None else ["--dtype", dtype]
    shape = ["--layers", "1,2", "--heads", 2, "--dim", 80, "--rows", 900]
    plan = run("size", "--model", base, *shape, *asked, "--emit", config, "--json").json()
    assert read_config(config).table_dtype == dtype  # unstated stays unstated
    written = run("attach", base, "-c", config, "-o", folder, "--json").json()["plan"]
    planned = run("report", config, "--model", base, "--json").json()
    found = run("report", folder, "--json").json()

    wanted = dtype or base_dtype
    assert plan["table_dtype_from"] == written["dtype_from"] == ("config" if dtype else "base")
    for report in (plan, planned, found):
        assert report["table_dtype"] == wanted
    assert written["dtype"] == wanted
    table, dense, constants = stored_bytes(folder)
    assert table == plan["table_bytes"] == planned["totals"]["table_bytes"]
    assert table == found["totals"]["table_bytes"]
    assert dense + constants == plan["total_bytes"] - table
    assert planned["totals"]["total_bytes"] == found["totals"]["total_bytes"]
    assert dense == planned["totals"]["dense_bytes"] == found["totals"]["dense_bytes"]


def test_what_is_asked_for_wins_then_the_config_then_the_base():
    config = tiny.memory_config()
    stated = replace(config, table_dtype="int8")
    origins = [
        stated.stored_dtype("bfloat16", "fp16"),
        stated.stored_dtype("bfloat16"),
        config.stored_dtype("bfloat16"),
        config.stored_dtype(),
    ]
    assert [(found.name, found.origin) for found in origins] == [
        ("float16", "asked"),
        ("int8", "config"),
        ("bfloat16", "base"),
        ("float32", "assumed"),
    ]


def test_without_a_base_the_dtype_is_assumed_and_said_to_be():
    numbers = ["--hidden-size", 64, "--vocab", 512, "--layers", 1, "--rows", 900]
    assert run("size", *numbers, "--json").json()["table_dtype_from"] == "assumed"
    assert "in float32, assumed" in run("size", *numbers).stdout


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_quantised_tables_are_attached_and_start_as_the_identity(bases, tmp_path, dtype, tables):
    base, folder = bases["float32"], tmp_path / "attached"
    attach.attach(base, tiny.memory_config(table_dtype=dtype), folder)
    from transformers import AutoModelForCausalLM

    ids = torch.randint(3, tiny.VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(base)
    model = engram.load(folder, tables=tables)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(ids).logits)
        tiny.randomise(model)
        assert not torch.equal(plain(ids).logits, model(ids).logits)
    with pytest.raises(LayoutError, match="cannot be trained"):
        model.train()(ids, labels=ids)
    assert all(check.ok is not False for check in verify(folder, headers_only=True))


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_quantised_first_values_are_those_of_a_float_table_across_chunks(dtype, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.attach.initial_values.CHUNK_VALUES", 256)
    assert CHUNK_VALUES > 256
    rows, width = 37, 40  # rows that cross the chunks' borders
    chunks_of = partial(table_chunks, rows, width, std=1.0, key="k")
    wide = [make() for make in chunks_of("float32")[TABLE]]
    values = (
        torch.cat([torch.from_numpy(part) for part in wide]).view(torch.float32).view(rows, width)
    )
    for part, chunks in zip(
        FORMATS[dtype].quantise(values),
        map(chunks_of(dtype).get, (TABLE, SCALE)),
        strict=True,
    ):
        made = torch.cat([torch.from_numpy(make()) for make in chunks])
        assert torch.equal(made, part.contiguous().flatten().view(torch.uint8))


def test_an_unstated_dtype_is_written_as_null_and_read_back(tmp_path):
    file = tmp_path / "memory.yaml"
    write_config(file, tiny.memory_config())
    assert "table_dtype: null" in file.read_text()
    assert read_config(file) == tiny.memory_config()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
@pytest.mark.parametrize("wide", ["", "embed", "norm", "lm_head"])
def test_a_base_that_states_no_dtype_is_loaded_as_without_its_memory(bases, tmp_path, wide, dtype):
    base = shutil.copytree(bases["bfloat16"], tmp_path / "base")
    config, weights = json.loads((base / "config.json").read_text()), base / "model.safetensors"
    (base / "config.json").write_text(json.dumps({**config, "dtype": None}))
    tensors = load_file(weights)
    tensors = {it: value.float() if wide in it else value for it, value in tensors.items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    attach.attach(base, tiny.memory_config(table_dtype=dtype), tmp_path / "attached")
    assert max_logit_difference(base, tmp_path / "attached") == 0
    detach(tmp_path / "attached", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] is None


@pytest.mark.parametrize(("load_as", "stored"), [("auto", "BF16"), (torch.float32, "F32")])
def test_tables_that_loading_cast_are_saved_as_what_they_are(bases, tmp_path, load_as, stored):
    folder = tmp_path / "attached"
    attach.attach(bases["bfloat16"], tiny.memory_config(table_dtype="float32"), folder)
    engram.load(folder, dtype=load_as).save_pretrained(tmp_path / "saved")
    headers = read_folder_headers(tmp_path / "saved")
    assert {info.dtype for name, info in headers.items() if name.endswith(TABLE)} == {stored}
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())["engram"]
    assert settings["config"]["table_dtype"] == {"BF16": "bfloat16", "F32": "float32"}[stored]


@pytest.mark.parametrize(
    ("dtype", "is_noted"), [("float32", True), ("bf16", False), ("fp8", False)]
)
def test_attach_says_when_tables_are_loaded_in_another_dtype(bases, tmp_path, dtype, is_noted):
    words = ["-c", tmp_path / "memory.yaml", "-o", tmp_path / "attached", "--dtype", dtype]
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    done = run("attach", bases["bfloat16"], *words).ended()
    assert ("tables in float32 become bfloat16" in done.stderr) == is_noted

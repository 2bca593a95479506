"""Faults of files and keys: every public failure by its code, in every dialect that has it."""

from __future__ import annotations

import numpy as np
import pytest

import engram
from engram.checkpoints.gguf.gguf_memory import open_gguf
from support.gguf_faults import codes, having
from support.gguf_files import Tensor
from support.gguf_memories import BY_NAME, fill, write_filled, write_memory

NAMES = sorted(BY_NAME)


@pytest.mark.parametrize("name", NAMES)
def test_missing_constants(name, tmp_path):
    needed = ("layer_ids", "pad_id", "token_map", "primes", "offsets", "multipliers")
    for fact in needed:
        if fact not in BY_NAME[name].facts or fact in BY_NAME[name].optional:
            continue
        path = write_memory(tmp_path / f"{fact}.gguf", name, without=(fact,))
        checks = engram.verify(path)
        found = {it["code"]: it for check in checks for it in getattr(check, "faults", ())}
        assert set(found) == {"CONST_MISSING", "SILENT_OFF"}, fact
        assert BY_NAME[name].facts[fact].name in found["CONST_MISSING"]["message"]
        assert "engram constants" in found["CONST_MISSING"]["repair"]


@pytest.mark.parametrize("name", [it for it in NAMES if it != "gguf_deepstrix"])
def test_a_prefix_that_is_not_the_architecture(name, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name, prefix="deepseek40")
    assert codes(path) == {"PREFIX_WRONG", "SILENT_OFF"}


@pytest.mark.parametrize("name", having("primes"))
def test_primes_of_the_other_element_type(name, tmp_path):
    (kind, *more) = BY_NAME[name].facts["primes"].kinds
    other = {"uint32": "uint64", "uint64": "uint32"}[kind]
    if other in more:
        other = "int32"
    path = write_memory(tmp_path / "model.gguf", name, kinds={"primes": other})
    assert codes(path) == {"PRIMES_TYPE"}


@pytest.mark.parametrize("name", [it for it in having("multipliers") if it != "gguf_mx"])
def test_arrays_of_int64(name, tmp_path):  # which one writer of mx is said to give
    path = write_memory(tmp_path / "model.gguf", name, kinds={"multipliers": "int64"})
    assert codes(path) == {"TYPE_INT64"}


# Of hashkeys no tensor of a layer is in the file.
@pytest.mark.parametrize(
    "name", [it for it in having("layer_ids", layout="deepseek_v41") if it != "gguf_hashkeys"]
)
def test_layers_that_are_not_all_stated(name, tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, name, kept={"layer_ids": [1]})
    assert {"LAYERS_INCOMPLETE", "SILENT_OFF"} <= codes(path)


def test_layers_that_count_from_1(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_qwen4exp", kept={"layer_ids": [2]})
    assert "LAYER_BASE" in codes(path)


@pytest.mark.parametrize("name", ["gguf_ds4", "gguf_llama", "gguf_mx", "gguf_tarruda"])
def test_tensors_under_names_of_another_dialect(name, tmp_path):
    other = BY_NAME["gguf_llama" if name == "gguf_ds4" else "gguf_ds4"]
    renamed = {
        BY_NAME[name].weights["wkv.weight"].replace("{layer}", "1"): other.weights[
            "wkv.weight"
        ].replace("{layer}", "1")
    }
    path = write_memory(tmp_path / "model.gguf", name, renamed=renamed)
    if name in ("gguf_tarruda",):  # which calls the projection as ds4 does
        assert codes(path) == set()
    elif name in ("gguf_llama", "gguf_kmbandy"):
        # One tensor of ds4 makes the file one of ds4, whose other names it lacks.
        assert "NAME_MISMATCH" in codes(path)
    else:
        assert codes(path) == {"NAME_MISMATCH", "SILENT_OFF"}


def test_encodings_and_files_that_were_left_half_done(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_ds4", changed={"encoding": "conversion_underway"})
    assert codes(path) == {"HALF_DONE", "SILENT_OFF"}
    write_memory(path, "gguf_ds4", changed={"encoding": "e5m2_row264_something"})
    assert codes(path) == {"ENCODING_UNKNOWN"}
    write_memory(path, "gguf_ds4", changed={"encoding": "lloyd4_e5m3_32_r136"})
    assert codes(path) == {"ENCODING_WIDTH", "ROW_VALUES"}
    write_memory(path, "gguf_ds4", missing_bytes=10**10)
    assert {"HALF_DONE", "SILENT_OFF"} <= codes(path)


@pytest.mark.parametrize("name", [it for it in NAMES if BY_NAME[it].table is not None])
def test_files_that_are_cut_short(name, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name, missing_bytes=10**8)
    assert {"HALF_DONE", "SILENT_OFF"} <= codes(path)


def test_rows_that_are_no_numbers(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_ds4")
    (table, *_) = open_gguf(path).tables
    bad = np.zeros((table.rows, 264), np.uint8)
    bad[-1] = 255
    fill(path, {table.values.name: bad})
    assert "ROW_VALUES" in codes(path)


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        *(("gguf_llama", fact) for fact in ("heads", "orders", "row_width")),
        *(("gguf_ds4", fact) for fact in ("rows", "compressed_vocab_size")),
        *(("gguf_qwen4exp", fact) for fact in ("eos_token_id", "orders", "heads", "kernel_size")),
    ],
)
def test_other_keys_that_loaders_need(name, fact, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name, without=(fact,))
    assert "CONST_MISSING" in codes(path)


def test_types_that_are_not_known_here_are_no_fault_of_the_file(tmp_path):
    path = tmp_path / "model.gguf"
    base = {"blk.3.odd.weight": Tensor((64, 100), 144, bytes=4096)}
    write_memory(path, "gguf_llama", tensors=base)
    assert codes(path) == set()


def test_requantised_rows_beside_their_old_scales(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_tarruda", row_type=("Q8_0", 256))
    assert codes(path, engine="tarruda") == set()
    assert engram.report(path).to_dict()["gguf"]["tables"][0]["row_bytes"] == 272

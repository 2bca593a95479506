"""`verify` of GGUF: every public failure is named by its code, in every dialect that has it."""

from __future__ import annotations

import time

import numpy as np
import pytest

import engram
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import InputError, MissingFileError, UsageError
from support.cli import command, run
from support.gguf_files import Array, Tensor, write
from support.gguf_memories import BY_NAME, constants, fill, write_filled, write_memory
from support.paths import BPE, WORD
from support.peak_memory import run_measured

NAMES = sorted(BY_NAME)


def having(*facts, layout=None):
    """Names of the dialects with keys for facts."""
    return [
        name
        for name in NAMES
        if all(it in BY_NAME[name].facts and not BY_NAME[name].facts[it].is_tensor for it in facts)
        and layout in (None, BY_NAME[name].layout)
    ]


def codes(path, **options):
    """Codes of a file's faults, and the names of checks that failed."""
    checks = engram.verify(path, **options)
    faults = [fault for check in checks for fault in getattr(check, "faults", ())]
    assert all(fault["message"] and fault["repair"] for fault in faults)
    assert checks.ok == (not faults and all(check.ok is not False for check in checks))
    return {fault["code"] for fault in faults}


def facts_of(name):
    return constants(BY_NAME[name].layout)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_of_every_dialect_passes(name, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name)
    checks = engram.verify(path)
    assert checks.ok, checks
    assert [check.name for check in checks][:2] == ["dialect", "header"]
    assert [check.name for check in checks][-1] == "memory"
    held = BY_NAME[name].table is not None
    rows = ("encoding", "values")
    assert all(check.ok is (None if check.name in rows and not held else True) for check in checks)


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


@pytest.mark.parametrize("name", having("multipliers"))
def test_arrays_of_int64(name, tmp_path):
    if "int64" in BY_NAME[name].facts["multipliers"].kinds:
        pytest.skip("one writer of this dialect gives them as int64")
    path = write_memory(tmp_path / "model.gguf", name, kinds={"multipliers": "int64"})
    assert codes(path) == {"TYPE_INT64"}


@pytest.mark.parametrize("name", having("multipliers"))
def test_multipliers_that_lost_bits(name, tmp_path):
    right = facts_of(name)["multipliers"]
    wrong = {
        "FLOAT_CAST": [int(np.float32(it)) for it in right],
        "INT32_MULT": [it % 2**31 for it in right],
        "CONST_WRONG": [right[0] + 2, *right[1:]],
    }
    for code, multipliers in wrong.items():
        path = tmp_path / f"{code}.gguf"
        write_memory(path, name, changed={"multipliers": multipliers})
        assert codes(path) == {code}


def test_the_default_seed_of_a_port(tmp_path):
    from engram.addressing.multipliers import multipliers
    from engram.config.engram_config import EngramConfig
    from engram.config.templates import load_template

    config = load_template("qwen3.8-flash-next")
    unseeded = EngramConfig.from_dict({**config.to_dict(), "seed": 0})
    wrong = list(multipliers(unseeded, config.engram_vocab_size)[1])
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_qwen4exp", changed={"multipliers": wrong})
    assert codes(path) == {"SEED_DEFAULT"}


@pytest.mark.parametrize("name", having("primes", layout="deepseek_v41"))
def test_rows_that_the_heads_do_not_fill(name, tmp_path):
    right = facts_of(name)
    path = tmp_path / "model.gguf"
    if BY_NAME[name].table is not None:
        rows = [it - 1 for it in right["rows"]]
        write_memory(path, name, changed={"rows": rows})
        assert codes(path) == {"ROW_RANGE"}
    primes = [*right["primes"][:-1], right["primes"][-1] + 1]
    write_memory(path, name, changed={"primes": primes})
    assert "CONST_WRONG" in codes(path)
    write_memory(path, name, changed={"primes": right["primes"][:-1]})
    assert "CONST_COUNT" in codes(path)


@pytest.mark.parametrize("name", having("offsets", "primes"))
def test_offsets_that_are_no_running_sums(name, tmp_path):
    right = facts_of(name)["offsets"]
    # As if both tables were one.
    both = [it + 5 for it in right]
    path = write_memory(tmp_path / "model.gguf", name, changed={"offsets": both})
    assert codes(path) == {"OFFSETS_WRONG"}


@pytest.mark.parametrize("name", having("layer_ids", layout="deepseek_v41"))
def test_layers_that_are_not_all_stated(name, tmp_path):
    dialect, path = BY_NAME[name], tmp_path / "model.gguf"
    if not dialect.weights:
        pytest.skip("this dialect keeps no tensor of a layer in the file")
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


@pytest.mark.parametrize("name", having("token_map"))
def test_token_maps(name, tmp_path):
    right, path = facts_of(name), tmp_path / "model.gguf"
    tokens = {"tokenizer.ggml.tokens": Array("string", ["t"] * 1001)}
    write_memory(path, name, values=tokens)
    assert codes(path) == {"MAP_LEN"}
    hole = [0 if it == 7 else it for it in right["token_map"]]
    write_memory(path, name, changed={"token_map": hole})
    assert codes(path) == {"MAP_RANGE"}
    revised = [token % 99092 for token in range(129280)]
    write_memory(path, name, changed={"token_map": revised, "compressed_vocab_size": 99092})
    assert "TOKENIZER_REV" in codes(path)


@pytest.mark.parametrize("name", having("pad_id", "token_map"))
def test_a_pad_of_the_other_space(name, tmp_path):
    token_map = list(facts_of(name)["token_map"])
    token_map[2], token_map[5] = 5, 2
    right, other = (2, 5) if BY_NAME[name].pad_is_raw else (5, 2)
    path = tmp_path / "model.gguf"
    for pad, expected in ((right, set()), (other, {"PAD_SPACE"}), (77, {"CONST_WRONG"})):
        write_memory(path, name, changed={"token_map": token_map, "pad_id": pad})
        assert codes(path) == expected


def test_the_end_of_a_chat_turn_in_place_of_the_end_of_text(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_qwen4exp", changed={"eos_token_id": 248046})
    assert codes(path) == {"EOS_WRONG"}


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


def test_a_tokenizer_is_compared(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_llama")
    (check,) = (it for it in engram.verify(path, tokenizer=BPE) if it.name == "tokenizer")
    assert check.ok
    (check,) = (it for it in engram.verify(path, tokenizer=WORD) if it.name == "tokenizer")
    assert check.ok is False


def test_a_file_of_190_gb_is_judged_at_once(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4", changed={"pad_id": 3})
    done, peak_bytes = run_measured(command("verify", path, "--json"), tmp_path)
    assert done.returncode == 5, done.stderr.decode()
    assert peak_bytes < 250e6
    begin = time.perf_counter()
    assert codes(path) == {"CONST_WRONG"}
    assert time.perf_counter() - begin < 2
    code, out, _ = run("verify", path)
    assert code == 5
    assert "CONST_WRONG: the pad is stated as 3" in " ".join(out.split())


def test_what_is_no_memory_is_refused(tmp_path):
    path = write(tmp_path / "plain.gguf", {"general.architecture": ("string", "llama")})
    with pytest.raises(InputError, match="without a memory"):
        engram.verify(path)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF\3\0\0\0")
    checks = engram.verify(torn)
    assert [(check.name, check.ok) for check in checks] == [("header", False)]


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


def test_constants_of_another_form(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_llama", kept={"pad_id": [2]})
    assert codes(path) == {"TYPE_WRONG"}
    write_memory(path, "gguf_llama", kept={"primes": 5})
    checks = engram.verify(path)
    assert not checks.ok
    assert {check.name: check.ok for check in checks}["primes"] is None
    write_memory(path, "gguf_jig")
    (primes,) = (it for it in open_gguf(path).files.tensors.values() if "primes" in it.name)
    floats = {"engram_primes.weight": Tensor(primes.dims, 0)}
    write_memory(path, "gguf_jig", without=("primes",), tensors=floats)
    assert "FLOAT_CAST" in codes(path)


def test_rows_that_are_stated(tmp_path):
    path = tmp_path / "model.gguf"
    for rows, code in (([5, 6], "ROW_RANGE"), ([5], "CONST_COUNT")):
        write_memory(path, "gguf_ds4", kept={"rows": rows})
        assert code in codes(path)


@pytest.mark.parametrize("name", ["gguf_hashkeys", "gguf_youngai"])
def test_primes_that_begin_elsewhere(name, tmp_path):
    right = facts_of(name)["primes"]
    path = tmp_path / "model.gguf"
    write_memory(path, name, changed={"primes": [*right[1:], 16001299]})
    assert "CONST_WRONG" in codes(path)


def test_types_that_are_not_known_here_are_no_fault_of_the_file(tmp_path):
    path = tmp_path / "model.gguf"
    base = {"blk.3.odd.weight": Tensor((64, 100), 144, bytes=4096)}
    write_memory(path, "gguf_llama", tensors=base)
    assert codes(path) == set()


def test_a_table_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "model.gguf"
    name = "per_layer_token_embd.weight"
    write_memory(path, "gguf_qwen4exp", renamed={name: "elsewhere.weight"})
    checks = engram.verify(path)
    assert checks.ok
    assert [check.ok for check in checks if check.name == "memory"] == [None]
    values = {"general.architecture": ("string", "qwen4exp")}
    write(path, values, {name: Tensor((160, 320_001_536), 20)})
    checks = engram.verify(path)
    assert checks.ok
    assert [check.name for check in checks] == [
        *("dialect", "header", "encoding", "values", "memory")
    ]
    write(path, {"general.architecture": ("string", "gemma3n")}, {name: Tensor((256, 30), 12)})
    with pytest.raises(InputError, match="of architecture gemma3n without a memory"):
        engram.verify(path)


def test_requantised_rows_beside_their_old_scales(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_tarruda", row_type=("Q8_0", 256))
    assert codes(path, engine="tarruda") == set()
    assert engram.report(path).to_dict()["gguf"]["tables"][0]["row_bytes"] == 272


def test_options_of_other_targets_are_refused(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    with pytest.raises(UsageError, match="leave --revision and --full out"):
        engram.verify(path, revision="main", full=True)

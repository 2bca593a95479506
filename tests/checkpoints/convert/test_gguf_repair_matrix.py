"""Every fault that metadata mend, in every dialect that has it: as a file without the fault."""

from __future__ import annotations

import numpy as np
import pytest

from engram.errors import MissingFileError, NoError
from support.gguf_faults import facts_of, having
from support.gguf_files import Array, Tensor
from support.gguf_memories import BY_NAME, write_memory
from support.gguf_repairs import mended, refused

NAMES = sorted(BY_NAME)
MULTIPLIED = [name for name in NAMES if "multipliers" in BY_NAME[name].facts]
# Facts that a file must state, and that follow from its tables, its release and its token map.
COMPUTED = [
    (name, fact)
    for name in NAMES
    for fact in BY_NAME[name].facts
    if fact not in (*BY_NAME[name].optional, "token_map", "table_shards")
    and (name, fact) != ("gguf_hebrus", "layer_ids")  # which may count from 1
]


@pytest.mark.parametrize(("name", "fact"), COMPUTED)
def test_missing_constants(name, fact, tmp_path):
    result = mended(tmp_path, name, {"CONST_MISSING"}, without=(fact,))
    (change,) = result.changes
    assert change.action == "written"
    assert change.name.endswith(BY_NAME[name].facts[fact].name)


@pytest.mark.parametrize("name", [it for it in NAMES if "primes" in BY_NAME[it].facts])
def test_the_five_keys_that_first_uploads_lacked(name, tmp_path):
    five = ("multipliers", "primes", "offsets", "pad_id", "eos_token_id")
    mended(tmp_path, name, {"CONST_MISSING"}, without=five)


@pytest.mark.parametrize("name", NAMES)
def test_prefixes(name, tmp_path):
    result = mended(tmp_path, name, {"PREFIX_WRONG"}, prefix="deepseek40")
    assert {change.action for change in result.changes} == {"renamed"}


@pytest.mark.parametrize("name", having("primes"))
def test_element_types_of_primes(name, tmp_path):
    (kind, *more) = BY_NAME[name].facts["primes"].kinds
    other = {"uint32": "uint64", "uint64": "uint32"}[kind]
    wrong = "int32" if other in more else other
    mended(tmp_path, name, {"PRIMES_TYPE"}, kinds={"primes": wrong})


@pytest.mark.parametrize("name", [it for it in having("multipliers") if it != "gguf_mx"])
def test_arrays_of_int64(name, tmp_path):
    mended(tmp_path, name, {"TYPE_INT64"}, kinds={"multipliers": "int64"})


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        (name, fact)
        for name in NAMES
        for fact, place in BY_NAME[name].facts.items()
        if not place.is_tensor and place.kinds[0] not in ("string", "bool") and fact != "primes"
    ],
)
def test_element_types_of_other_facts(name, fact, tmp_path):
    wrong = "uint16" if BY_NAME[name].facts[fact].kinds[0] != "uint64" else "float64"
    if fact in ("rows", "size_base", "eos_token_id", "image_token_id") or fact == "offsets":
        wrong = "int64" if wrong == "uint16" else wrong
    code = "TYPE_INT64" if wrong == "int64" and BY_NAME[name].facts[fact].is_list else "TYPE_WRONG"
    mended(tmp_path, name, {code}, kinds={fact: wrong})


@pytest.mark.parametrize("fact", ["token_map", "primes", "offsets", "multipliers"])
@pytest.mark.parametrize("name", ["gguf_jig", "gguf_youngai"])
def test_constants_that_are_tensors_of_floats(name, fact, tmp_path):
    place = BY_NAME[name].facts[fact]
    count = len(facts_of(name)[fact])
    fault = {"without": (fact,), "tensors": {place.name: Tensor((count,), 0)}}
    if fact == "token_map":  # which cannot be read, and so is not known
        path = write_memory(tmp_path / "source.gguf", name, **fault)
        refused(tmp_path, MissingFileError, path)
    else:
        mended(tmp_path, name, {"FLOAT_CAST"}, **fault)


@pytest.mark.parametrize("name", MULTIPLIED)
@pytest.mark.parametrize("code", ["FLOAT_CAST", "INT32_MULT", "CONST_WRONG", "count"])
def test_multipliers(name, code, tmp_path):
    if (name, code) == ("gguf_hebrus", "count"):
        return  # their number is all that tells the orders: two of them fit the table as well
    right = facts_of(name)["multipliers"]
    wrong = {
        "FLOAT_CAST": [int(np.float32(it)) for it in right],
        "INT32_MULT": [it % 2**31 for it in right],
        "CONST_WRONG": [right[0] + 2, *right[1:]],
        "count": right[:-1],
    }[code]
    mended(tmp_path, name, {code} - {"count"}, changed={"multipliers": wrong})


def test_the_default_seed_of_a_port(tmp_path):
    from engram.addressing.multipliers import multipliers
    from engram.config.engram_config import EngramConfig
    from engram.config.templates import load_template

    config = load_template("qwen3.8-flash-next")
    unseeded = EngramConfig.from_dict({**config.to_dict(), "seed": 0})
    wrong = list(multipliers(unseeded, config.engram_vocab_size)[1])
    mended(tmp_path, "gguf_qwen4exp", {"SEED_DEFAULT"}, changed={"multipliers": wrong})


# Without tensors of layers, nothing but what is stated tells of other layers than the release's.
@pytest.mark.parametrize("name", having("layer_ids", layout="deepseek_v41"))
def test_layers_that_are_not_all_stated(name, tmp_path):
    expected = {"LAYERS_INCOMPLETE"} if name != "gguf_hashkeys" else {"CONST_COUNT"}
    mended(tmp_path, name, expected, kept={"layer_ids": [1]})


def test_layers_that_count_from_1(tmp_path):
    mended(tmp_path, "gguf_qwen4exp", {"LAYER_BASE"}, kept={"layer_ids": [2]})


@pytest.mark.parametrize("name", [it for it in NAMES if "primes" in BY_NAME[it].facts])
def test_primes_and_offsets(name, tmp_path):
    right = facts_of(name)
    primes = right["primes"]
    wrong = [*primes[:-1], primes[-1] + 1]
    mended(tmp_path, name, {"CONST_WRONG"}, changed={"primes": wrong})
    mended(tmp_path, name, {"CONST_COUNT"}, changed={"primes": primes[:-1]})
    if "offsets" in BY_NAME[name].facts:
        both = [it + 5 for it in right["offsets"]]
        mended(tmp_path, name, {"OFFSETS_WRONG"}, changed={"offsets": both})


@pytest.mark.parametrize("name", [it for it in having("rows") if it != "gguf_hebrus"])
def test_rows(name, tmp_path):
    right = facts_of(name)["rows"]
    for rows, code in (([right[0], 6], "ROW_RANGE"), (right[:1], "CONST_COUNT")):
        mended(tmp_path, name, {code}, kept={"rows": rows})


@pytest.mark.parametrize("name", having("compressed_vocab_size"))
def test_the_size_of_the_compressed_vocabulary(name, tmp_path):
    mended(tmp_path, name, set(), kept={"compressed_vocab_size": 599})


@pytest.mark.parametrize("name", having("pad_id"))
def test_pads(name, tmp_path):
    mended(tmp_path, name, {"CONST_WRONG"}, changed={"pad_id": 77})
    mended(tmp_path, name, {"TYPE_WRONG"}, kept={"pad_id": [2]})


def test_taps_of_the_convolution(tmp_path):
    mended(tmp_path, "gguf_qwen4exp", {"CONST_WRONG"}, changed={"kernel_size": 3})


@pytest.mark.parametrize("name", [it for it in having("row_width") if BY_NAME[it].table])
def test_widths_of_rows(name, tmp_path):
    mended(tmp_path, name, {"ENCODING_WIDTH"}, changed={"row_width": 128})


def test_the_end_of_a_chat_turn(tmp_path):
    mended(tmp_path, "gguf_qwen4exp", {"EOS_WRONG"}, changed={"eos_token_id": 248046})


@pytest.mark.parametrize("name", [it for it in NAMES if BY_NAME[it].weights])
@pytest.mark.parametrize("other", ["gguf_ds4", "gguf_llama", "gguf_tarruda"])
def test_tensors_under_names_of_another_dialect(name, other, tmp_path):
    if BY_NAME[name].layout != "deepseek_v41":
        return
    for part, template in BY_NAME[name].weights.items():
        wrong = BY_NAME[other].weights[part]
        if wrong != template:
            renamed = {template.replace("{layer}", "14"): wrong.replace("{layer}", "14")}
            mended(tmp_path, name, {"NAME_MISMATCH"}, renamed=renamed)


def test_encodings_of_plain_bytes(tmp_path):
    mended(tmp_path, "gguf_ds4", {"ENCODING_UNKNOWN"}, without=("encoding",))
    wrong = {"encoding": "lloyd4_e5m3_32_r136"}
    mended(tmp_path, "gguf_ds4", {"ENCODING_WIDTH"}, changed=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_several_faults_at_once(name, tmp_path):
    dialect = BY_NAME[name]
    facts = [it for it in ("primes", "offsets", "rows") if it in dialect.facts]
    fault = {"without": facts, "prefix": "deepseek40"}
    if "multipliers" in dialect.facts and not dialect.facts["multipliers"].is_tensor:
        fault["kinds"] = {"multipliers": "int64" if name != "gguf_mx" else "float64"}
    mended(tmp_path, name, {"PREFIX_WRONG"}, **fault)


@pytest.mark.parametrize("name", [it for it in NAMES if "token_map" in BY_NAME[it].facts])
def test_token_maps_need_the_tokenizer(name, tmp_path):
    right = facts_of(name)["token_map"]
    hole = [0 if it == 7 else it for it in right]
    tokens = {"tokenizer.ggml.tokens": Array("string", ["t"] * 1001)}
    faults = [{"without": ("token_map",)}, {"changed": {"token_map": hole}}, {"values": tokens}]
    for number, fault in enumerate(faults):
        path = write_memory(tmp_path / f"{number}.gguf", name, **fault)
        error = refused(tmp_path, MissingFileError, path)
        assert "-t TOKENIZER" in error.hint


@pytest.mark.parametrize("name", [it for it in NAMES if BY_NAME[it].table is not None])
def test_what_metadata_do_not_mend_is_told_by_code(name, tmp_path):
    path = write_memory(tmp_path / "source.gguf", name, missing_bytes=10**8)
    assert "HALF_DONE" in refused(tmp_path, NoError, path).details["codes"]
    lost = {
        template.replace("{layer}", str(facts_of(name)["layer_ids"][0])): "odd.weight"
        for template in [*BY_NAME[name].weights.values()][-1:]
    }
    # What can be mended is not, where not all can.
    write_memory(path, name, renamed=lost, prefix="deepseek40")
    error = refused(tmp_path, NoError, path)
    assert error.exit_code == 5
    assert error.details["codes"] == ["TENSOR_MISSING"]
    assert "TENSOR_MISSING: it lacks" in error.message
    write_memory(path, name, renamed=lost, without=("token_map",))
    if "token_map" in BY_NAME[name].facts:  # a tokenizer would not help
        assert refused(tmp_path, NoError, path).details["codes"] == ["TENSOR_MISSING"]


def test_layers_that_nothing_tells_are_not_made_up(tmp_path):
    path = write_memory(tmp_path / "source.gguf", "gguf_hebrus", without=("layer_ids",))
    assert refused(tmp_path, NoError, path).details["codes"] == ["CONST_MISSING"]

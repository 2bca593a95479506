"""Faults of constants: every public failure by its code, in every dialect that has it."""

from __future__ import annotations

import numpy as np
import pytest

import engram
from engram.addressing.addresses import map_digest
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.layouts import LAYOUTS
from support.gguf_faults import codes, facts_of, having
from support.gguf_files import Array, Tensor
from support.gguf_memories import BY_NAME, write_memory


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


@pytest.mark.parametrize("has_known_map", [True, False])
def test_a_token_map_tells_the_release_where_no_rows_do(has_known_map, tmp_path, monkeypatch):
    token_map = np.array(facts_of("gguf_hashkeys")["token_map"], np.int32)
    if has_known_map:
        known = LAYOUTS["deepseek_v41"].known_maps
        monkeypatch.setitem(known, (len(token_map), 600), map_digest(token_map))
    path, changed = tmp_path / "model.gguf", {"pad_id": 77}
    write_memory(path, "gguf_hashkeys", without=("primes", "rows"), changed=changed)
    assert ("CONST_WRONG" in codes(path)) is has_known_map


@pytest.mark.parametrize("pad", [0, 1, 5, 599])
def test_pads_of_other_rows_than_the_releases_are_judged_by_their_range(pad, tmp_path):
    path = tmp_path / "model.gguf"
    rows = [it + 1 for it in facts_of("gguf_llama")["rows"]]
    write_memory(path, "gguf_llama", changed={"rows": rows, "pad_id": pad})
    assert codes(path) == {"ROW_RANGE"}
    write_memory(path, "gguf_llama", changed={"rows": rows, "pad_id": 600})
    assert codes(path) == {"ROW_RANGE", "CONST_WRONG"}


def test_the_end_of_a_model_of_its_own_vocabulary(tmp_path):
    from engram.addressing.multipliers import multipliers
    from engram.config.templates import load_template

    path = tmp_path / "model.gguf"
    (own,) = multipliers(load_template("qwen3.8-flash-next"), 1000).values()
    tokens = {"tokenizer.ggml.tokens": Array("string", ["t"] * 1000)}
    changed = {"multipliers": list(own), "eos_token_id": 7}
    write_memory(path, "gguf_qwen4exp", values=tokens, changed=changed)
    assert codes(path) == set()
    write_memory(path, "gguf_qwen4exp", values=tokens, changed={"eos_token_id": 7})
    assert codes(path) == {"EOS_WRONG"}


def test_taps_and_widths_that_tensors_do_not_have(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_qwen4exp", changed={"kernel_size": 3})
    assert codes(path) == {"CONST_WRONG"}
    for name in ("gguf_llama", "gguf_tarruda", "gguf_qwen4exp"):
        write_memory(path, name, changed={"row_width": 128})
        assert codes(path) == {"ENCODING_WIDTH"}


def test_the_end_of_a_chat_turn_in_place_of_the_end_of_text(tmp_path):
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_qwen4exp", changed={"eos_token_id": 248046})
    assert codes(path) == {"EOS_WRONG"}


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

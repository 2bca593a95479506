"""Exported vectors against other ways to find the same rows, values and outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import engram
from engram.addressing.hashing import Hasher
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.engines.golden_cases import Case, Step, read_case
from engram.nn import EngramModule
from engram.storage.row_encodings.rounding import to_bfloat16
from engram.tensor_names import TABLE
from support import tiny
from support.layouts import LAYOUTS, layout_config, random_memory
from support.paths import BPE
from support.qwen import qwen_release

DEAD = -1


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    """By layout: an attached folder with random values."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    return {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }


@pytest.fixture(scope="module")
def vectors(attached, tmp_path_factory):
    """By layout: golden.json of its attached folder."""
    folder = tmp_path_factory.mktemp("golden")
    for layout in LAYOUTS:
        engram.export_golden(attached[layout], folder / layout, module=True)
    return {layout: read(folder / layout) for layout in LAYOUTS}


def read(folder):
    return json.loads((folder / "golden.json").read_text())


def case_of(vectors, name):
    (case,) = (case for case in vectors["cases"] if case["name"] == name)
    return case["steps"]


def rows_of(steps):
    return [row for step in steps for row in step["rows"]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_those_of_the_compiled_hash(vectors, layout):
    """The fast form of the hash finds the rows of every case without dead positions."""
    hasher = Hasher(engram.EngramTokenizer(layout_config(layout), BPE).addresses)
    found = 0
    for case in vectors[layout]["cases"]:
        text, starts = [], []
        for step in case["steps"]:
            del text[step["at"] :], starts[step["at"] :]
            text += step["token_ids"]
            starts += step["starts"]
            if DEAD in text:
                continue
            rows = hasher.hash(np.array([text]), starts=np.array([starts]) > 0, offsets=True)[0]
            assert rows[0, step["at"] :].tolist() == step["rows"]
            found += 1
    assert found > 20


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dead_positions_are_read_as_the_model_does(attached, vectors, layout):
    """The rows of the others are those that a loaded model reads with an attention mask."""
    model, seen = engram.load(attached[layout]), {}
    for layer_id, layer in enumerate(model.get_decoder().engram_layers):
        if hasattr(layer, "engram"):
            layer.engram.multi_head_embedding.embedding.register_forward_hook(
                lambda module, args, out, layer_id=layer_id: seen.update({layer_id: args[0]})
            )
    for name in ("dead_token_inside", "dead_tokens_apart", "dead_tokens_first"):
        (step,) = case_of(vectors[layout], name)
        ids = torch.tensor([step["token_ids"]])
        mask = ids != DEAD
        with torch.no_grad():
            model(ids.clamp_min(5), attention_mask=mask.int())
        rows = torch.tensor(step["rows"])  # [T, L, C]
        for i, layer_id in enumerate(vectors[layout]["layer_ids"]):
            read_by_model = seen[layer_id][0].view(len(rows), -1)
            assert torch.equal(read_by_model[mask[0]], rows[mask[0], i])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_laws_of_the_cases(vectors, layout):
    found = vectors[layout]
    whole = rows_of(case_of(found, "start_of_text"))
    for name in ("chunked_decode", "decode_after_prefill"):
        assert rows_of(case_of(found, name)) == whole
        assert len(case_of(found, name)) > 3
    rolled = case_of(found, "speculative_rollback")
    assert [step["at"] for step in rolled] != sorted({step["at"] for step in rolled})
    kept = rolled[0]["rows"] + rolled[1]["rows"][:1] + rolled[3]["rows"] + rolled[4]["rows"]
    assert kept == whole
    assert rolled[4]["history"] == case_of(found, "start_of_text")[0]["history"]
    for length in range(1, 4):
        assert rows_of(case_of(found, f"text_of_{length}")) == whole[:length]
    assert rows_of(case_of(found, "dead_tokens_first"))[2:] == whole
    dead = rows_of(case_of(found, "all_dead"))
    assert dead == [dead[0]] * 5
    (inside,) = case_of(found, "dead_token_inside")
    at = inside["token_ids"].index(DEAD)
    assert inside["compressed_ids"][at] == DEAD
    assert inside["rows"][at] == dead[0]
    is_passed = inside["rows"][at + 1 :] == whole[at:]
    assert is_passed == (layout == "demo") == found["rule"]["skips_dead_tokens"]
    (packed,) = case_of(found, "document_starts")
    for t, rows in enumerate(packed["rows"]):
        recent = packed["starts"][max(1, t - 2) : t + 1]  # a token looks back at three others
        assert (rows == whole[t]) == (not any(recent))
    names = [case["name"] for case in found["cases"]]
    assert ("end_of_text_inside" in names) == (layout == "qwen_ple")
    assert {case["rule"] for case in found["cases"]} <= set(found["rules"])
    (largest,) = case_of(found, "largest_ids")
    assert max(largest["token_ids"]) == tiny.VOCAB - 1
    if found["map_sha256"]:
        assert max(largest["compressed_ids"]) == found["compressed_vocab_size"] - 1
    for layer in np.moveaxis(np.array(whole), 1, 0).tolist():
        assert len({row for rows in layer for row in rows}) > 40


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sentence_is_read_as_lookup_does(attached, vectors, layout):
    (case,) = (case for case in vectors[layout]["cases"] if case["name"] == "text")
    (step,) = case["steps"]
    found = engram.look_up(attached[layout], case["text"])
    assert step["token_ids"] == [token.token_id for token in found.tokens]
    for i, layer in enumerate(found.layers):
        expected = layer.rows.reshape(len(found.tokens), -1)
        assert np.array_equal(np.array(step["rows"])[:, i], expected)


def test_the_reference_implementation_finds_them_too(golden, tmp_path):
    """Constants and rows of V4.1's own code, for the tokens that its golden file has."""
    known = golden("v41_small")
    token_map = compressed_map(load_tokenizer(BPE))
    stated = known["config"]
    heads = stated["engram_n_heads"]
    config = layout_config(
        "deepseek_v41",
        engram_table_size=[stated["engram_vocab_size"] * heads] * 3,
        layer_ids=stated["engram_layer_ids"],
        n_head_per_ngram=heads,
    )
    addresses = engram.Addresses.from_config(config, token_map, pad_id=stated["engram_pad_id"])
    masked = 0
    for case in known["cases"]:
        masks = case["token_mask"] or [[True] * len(row) for row in case["input_ids"]]
        for ids, mask, rows in zip(case["input_ids"], masks, case["row_ids"], strict=True):
            text = tuple(i if keep else DEAD for i, keep in zip(ids, mask, strict=True))
            (reading,) = read_case(addresses, Case("x", "x", (Step(0, text),)))
            assert reading.rows.tolist() == rows
            masked += DEAD in text
    assert masked


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "fp8", "int8"])
def test_rows_of_tables_are_those_of_torch(attached, dtype, tmp_path):
    convert(attached["demo"], tmp_path / "x", dtype=dtype)
    engram.export_golden(tmp_path / "x", tmp_path / "golden")
    tables = {
        layer: parts[TABLE] for layer, parts in open_checkpoint(tmp_path / "x").layers.items()
    }
    found = read(tmp_path / "golden")["row_values"]
    whys = {(row["layer_id"], why) for row in found for why in row["why"]}
    assert {(layer, why) for layer in (2, 1) for why in ("first", "second", "last")} <= whys
    for row in found:
        values = tables[row["layer_id"]].read(row["row"], 1)[0]
        assert row["dtype"] == dtype
        assert bits(values.float(), torch.int32, 32) == row["float32_bits"]
        assert bits(values.float().bfloat16(), torch.int16, 16) == row["bfloat16_bits"]
        stored = tables[row["layer_id"]].read_bytes(row["row"], 1)
        assert row["stored_hex"] == stored.tobytes().hex()
        assert (row["scales_hex"] is None) == (dtype != "fp8")
        assert row["row"] != tables[row["layer_id"]].rows - 1 or "last" in row["why"]


def bits(values, integer, width):
    return [number % 2**width for number in values.view(integer).tolist()]


def test_a_row_with_a_scale_byte_of_zero(attached, tmp_path):
    """Byte 0 is 2^-127: values are subnormal, and not zero."""
    convert(attached["deepseek_v41"], tmp_path / "x", dtype="fp8")
    opened = open_checkpoint(tmp_path / "x")
    engram.export_golden(tmp_path / "x", tmp_path / "before")
    before = read(tmp_path / "before")
    assert not [row for row in before["row_values"] if "scale byte 0" in row["why"]]
    (info,) = opened.layers[1][TABLE].scales
    (row,) = (r["row"] for r in before["row_values"] if r["layer_id"] == 1 and "read" in r["why"])
    with info.path.open("r+b") as file:
        file.seek(info.start + row * opened.layers[1][TABLE].scale_shape[1])
        file.write(b"\0")
    engram.export_golden(tmp_path / "x", tmp_path / "after")
    (found,) = (r for r in read(tmp_path / "after")["row_values"] if "scale byte 0" in r["why"])
    assert (found["layer_id"], found["row"]) == (1, row)
    assert found["scales_hex"].startswith("00")
    values = np.array(found["float32_bits"], np.uint32).view(np.float32).astype(np.float64)
    codes = torch.frombuffer(bytearray.fromhex(found["stored_hex"]), dtype=torch.float8_e4m3fn)
    assert values.any()
    assert np.array_equal(values, codes.double().numpy() * 2.0**-127)


def test_a_row_beyond_four_gigabytes(tmp_path):
    """Of Qwen's table of 102 GB over files that take no disk."""
    folder = qwen_release(tmp_path / "release")
    opened = open_checkpoint(folder)
    row = 2**32 // 320
    piece = opened.layers[1][TABLE].pieces[row // 2500012]
    with piece.path.open("r+b") as file:
        file.seek(piece.start + row % 2500012 * 320)
        file.write(b"\x80\x3f" * 160)  # ones
    engram.export_golden(folder, tmp_path / "golden")
    found = {why: row for row in read(tmp_path / "golden")["row_values"] for why in row["why"]}
    assert found["byte 2^32"]["row"] == row
    assert found["byte 2^32"]["float32_bits"] == [0x3F800000] * 160
    assert found["byte 2^32"]["bfloat16_bits"] == [0x3F80] * 160
    assert found["first"]["float32_bits"] == [0] * 160
    assert found["last"]["row"] == 320001535


def test_rounding_to_bfloat16():
    special = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 1]
    halves = [upper << 16 | low for upper in range(0x3F7D, 0x3F83) for low in (0x7FFF, 0x8000)]
    random = np.random.default_rng(0).integers(0, 2**32, 10_000).tolist()
    values = np.array([*special, *halves, *random], dtype=np.uint32).view(np.float32)
    expected = torch.from_numpy(values).bfloat16()
    found = to_bfloat16(values)
    is_nan = np.isnan(values)
    assert found[~is_nan].tolist() == [
        number % 2**16 for number in expected[~torch.from_numpy(is_nan)].view(torch.int16).tolist()
    ]
    again = torch.from_numpy(found[is_nan].astype(np.int32).astype(np.int16)).view(torch.bfloat16)
    assert again.isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_of_the_exported_weights_gives_the_outputs(vectors, layout):
    stated = vectors[layout]["module"]
    config = engram.EngramConfig.from_dict(stated["config"])
    assert (config.layout, config.max_ngram_size) == (layout, 4)
    primes = engram.Addresses.from_config(
        config, None if layout == "qwen_ple" else np.arange(64, dtype=np.int32), 0
    ).vocab_distributions[1]
    module = EngramModule(config, primes)
    weights = {name: torch.tensor(values) for name, values in stated["weights"].items()}
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("offsets" in name for name in missing)
    hidden, rows = torch.tensor(stated["hidden_states"]), torch.tensor(stated["row_ids"])
    table = weights["multi_head_embedding.embedding.weight"]
    assert rows.max() < len(table)
    ids = rows - module.multi_head_embedding.offsets
    keep = torch.tensor(stated["keep"]).bool()
    with torch.no_grad():
        output, masked = module(hidden, ids), module(hidden, ids, keep=keep)
    expected = torch.tensor(stated["output"])
    within = stated["tolerance"] * expected.abs().max().item()
    torch.testing.assert_close(output, expected, rtol=0, atol=within)
    with_keep = torch.tensor(stated["output_with_keep"])
    torch.testing.assert_close(masked, with_keep, rtol=0, atol=within)
    added = expected - hidden if stated["residual_included"] else expected
    assert added.abs().mean() > 0.05


def test_the_outputs_follow_from_the_lists_alone(vectors):
    """V4.1's gate and value, computed in float64 from what the file holds."""
    stated = vectors["deepseek_v41"]["module"]
    weights = {name: np.array(values) for name, values in stated["weights"].items()}
    hidden, rows = np.array(stated["hidden_states"])[0], np.array(stated["row_ids"])[0]
    memory = weights["multi_head_embedding.embedding.weight"][rows].reshape(len(rows), -1)
    streams, width = hidden.shape[1:]
    projected = memory @ weights["wkv.weight"].T
    keys = projected[:, : streams * width].reshape(hidden.shape)
    value = projected[:, streams * width :]

    def rstd(x):
        return 1 / np.sqrt((x**2).mean(-1) + stated["eps"])

    agreement = (hidden * weights["q_weight"] * weights["k_weight"] * keys).sum(-1)
    agreement *= rstd(hidden) * rstd(keys) * width**-0.5
    gate = 1 / (1 + np.exp(-np.copysign(np.sqrt(np.maximum(abs(agreement), 1e-6)), agreement)))
    expected = hidden + gate[..., None] * value[:, None]
    within = stated["tolerance"] * abs(expected).max()
    assert np.allclose(np.array(stated["output"])[0], expected, rtol=0, atol=within)
    assert np.array_equal(np.array(stated["output_with_keep"])[0, -1], hidden[-1])

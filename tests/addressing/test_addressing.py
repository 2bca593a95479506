"""Ids, constants and maps equal those of the reference implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engram import EngramConfig
from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.multipliers import multipliers
from engram.addressing.primes import head_primes
from engram.addressing.reference import compress, hash_ids
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.checkpoints.published.longcat import table_rows
from engram.hf.torch_hash import TorchHasher
from support.longcat import ngram_ids


def demo_config(values, vocab_size):
    heads = values["n_head_per_ngram"]
    return EngramConfig(
        hidden_size=16,
        engram_vocab_size=vocab_size,
        engram_table_size=[size * heads for size in values["engram_vocab_size"]],
        max_ngram_size=values["max_ngram_size"],
        n_embed_per_ngram=4 * heads,
        n_head_per_ngram=heads,
        layer_ids=values["layer_ids"],
        pad_id=values["pad_id"],
        seed=values["seed"],
    )


def v41_config(values, vocab_size):
    orders, heads = values["engram_max_ngram_size"] - 1, values["engram_n_heads"]
    return EngramConfig(
        layout="deepseek_v41",
        hidden_size=16,
        engram_vocab_size=vocab_size,
        engram_table_size=[values["engram_vocab_size"] * heads] * orders,
        max_ngram_size=orders + 1,
        n_embed_per_ngram=4 * heads,
        n_head_per_ngram=heads,
        layer_ids=values["engram_layer_ids"],
        pad_id=values["engram_pad_id"],
    )


def qwen_config(values):
    orders, heads = values["ngram_size"] - 1, values["heads_per_ngram"]
    return EngramConfig(
        layout="qwen_ple",
        hidden_size=16,
        engram_vocab_size=values["vocab_size"],
        engram_table_size=[values["ngram_vocab_size_base"] * heads] * orders,
        max_ngram_size=orders + 1,
        n_embed_per_ngram=4 * heads,
        n_head_per_ngram=heads,
        layer_ids=[layer - 1 for layer in values["ple_layer_ids"]],
        eos_id=values["eos_token_id"],
        seed=values["seed"],
        row_multiple=values["make_ngram_vocab_size_divisible_by"],
    )


def every_form(addresses, ids, keep=None, chunks=None, offsets=False):
    """Hash in every form, in chunks or at once, check that they agree, and return the ids."""
    ids = np.array(ids)
    keep = None if keep is None else np.array(keep)
    token_map = None if addresses.token_map is None else torch.from_numpy(addresses.token_map)
    ends = np.cumsum(chunks or [ids.shape[1]])
    forms = {
        "reference": lambda part, keep, past: hash_ids(addresses, part, keep=keep, history=past),
        "numpy": Hasher(addresses, form="numpy").hash,
        "numba": Hasher(addresses, form="numba").hash,
        "torch": TorchHasher(addresses).hash,
    }
    results = {}
    for name, form in forms.items():
        past, parts = None, []
        for begin, end in zip([0, *ends], ends, strict=False):
            part, mask = ids[:, begin:end], None if keep is None else keep[:, begin:end]
            if name == "reference":
                rows, past = form(part, mask, past)
            elif name == "torch":
                mask = None if mask is None else torch.from_numpy(mask)
                rows, past = form(
                    torch.from_numpy(part), token_map=token_map, keep=mask, history=past
                )
                rows = rows.numpy()
            else:
                rows, past = form(part, keep=mask, history=past)
            parts.append(rows)
        results[name] = np.concatenate(parts, axis=1)
    for name, rows in results.items():
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, results["reference"], err_msg=name)
    first = np.array([layer.offsets if offsets else [0] for layer in addresses.layers])
    return results["reference"] + first


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("demo_v1_small", "local_bpe"), ("demo_v1_equal_sizes", "local_word")],
)
def test_demo(golden, request, name, tokenizer):
    expected = golden(name)
    token_map = compressed_map(load_tokenizer(request.getfixturevalue(tokenizer)))
    config = demo_config(expected["config"], len(token_map))
    addresses = Addresses.from_config(config, token_map, config.pad_id)
    assert addresses.vocab_size == expected["compressed_vocab_size"]
    assert addresses.map_sha256 == expected["token_map_sha256_i32le"]
    assert addresses.fill == expected["pad_compressed"]
    for layer in addresses.layers:
        key = str(layer.layer_id)
        assert list(layer.multipliers) == expected["multipliers"][key]
        assert [list(row) for row in layer.primes] == expected["primes"][key]
        assert list(layer.offsets) == expected["offsets"][key]
        assert layer.hash_rows == layer.stored_rows == expected["table_rows"][key]
    for case in expected["cases"]:
        rows = every_form(addresses, case["input_ids"])
        compressed = compress(addresses, np.array(case["input_ids"]))
        assert compressed.tolist() == case["compressed_ids"], case["name"]
        for slot, layer_id in enumerate(addresses.layer_ids):
            assert rows[:, :, slot].tolist() == case["hash_ids"][str(layer_id)], case["name"]


def test_demo_defaults(golden):
    """The released defaults, with as much of DeepSeek-V3's token map as the cases need."""
    expected = golden("demo_v1_defaults_deepseek_v3")
    token_map = np.arange(128815, dtype=np.int32) % expected["compressed_vocab_size"]
    for case in expected["cases"]:
        token_map[np.array(case["input_ids"])] = case["compressed_ids"]
    config = demo_config(expected["config"], len(token_map))
    addresses = Addresses.from_config(config, token_map, config.pad_id)
    assert addresses.vocab_size == expected["compressed_vocab_size"]
    for layer in addresses.layers:
        key = str(layer.layer_id)
        assert list(layer.multipliers) == expected["multipliers"][key]
        assert layer.hash_rows == expected["table_rows"][key]
    for case in expected["cases"]:
        rows = every_form(addresses, case["input_ids"])
        for slot, layer_id in enumerate(addresses.layer_ids):
            assert rows[:, :, slot].tolist() == case["hash_ids"][str(layer_id)], case["name"]


def test_deepseek_v41(golden, local_bpe):
    expected = golden("v41_small")
    token_map = compressed_map(load_tokenizer(local_bpe))
    config = v41_config(expected["config"], len(token_map))
    addresses = Addresses.from_config(config, token_map, config.pad_id)
    assert [list(layer.multipliers) for layer in addresses.layers] == expected["multipliers"]
    assert [list(layer.offsets) for layer in addresses.layers] == expected["offsets"]
    rows = [layer.hash_rows for layer in addresses.layers]
    assert rows == expected["config"]["engram_num_embeddings"]
    for case in expected["cases"]:
        found = every_form(
            addresses, case["input_ids"], case["token_mask"], case["chunks"], offsets=True
        )
        assert found.tolist() == case["row_ids"], case["name"]


def test_qwen_ple(golden):
    expected = golden("qwen4_exp_small_idx0")
    addresses = Addresses.from_config(qwen_config(expected["config"]), None)
    layer = addresses.layers[expected["ple_layer_index"]]
    assert list(layer.multipliers) == expected["multipliers"]
    assert list(layer.heads) == expected["head_vocab_sizes"]
    assert list(layer.offsets) == expected["offsets"]
    assert layer.stored_rows == expected["rows_padded"]
    for case in expected["cases"]:
        found = every_form(addresses, case["input_ids"], offsets=True)
        assert found[:, :, 0].tolist() == case["row_ids"], case["name"]
        halves = every_form(addresses, case["input_ids"], chunks=[1] * len(case["input_ids"][0]))
        np.testing.assert_array_equal(halves, every_form(addresses, case["input_ids"]))


def test_qwen_released_constants(golden):
    expected = golden("qwen3_8_flash_next_constants")
    layer = Addresses.from_config(qwen_config(expected["config"]), None).layers[0]
    assert list(layer.multipliers) == expected["multipliers"]
    assert list(layer.heads) == expected["head_vocab_sizes"]
    assert list(layer.offsets) == expected["offsets"]
    assert (layer.hash_rows, layer.stored_rows) == (
        expected["rows_unpadded"],
        expected["rows_padded"],
    )


def test_longcat(golden):
    for case in golden("longcat_ngram_ids")["cases"]:
        config = case["config"]
        sizes = {
            "vocab_size": config["vocab_size"],
            "ratio": config["ngram_vocab_size_ratio"],
            "max_ngram_size": config["emb_neighbor_num"],
            "splits": config["emb_split_num"],
        }
        assert table_rows(**sizes) == case["table_rows"]
        ids = ngram_ids(np.array(case["input_ids"]), **sizes, eos_id=config["eos_token_id"])
        assert ids.tolist() == case["ids"], case["name"]


def test_known_multipliers():
    """numpy does not promise its generator's stream: these are the published values."""
    config = EngramConfig(
        hidden_size=16,
        engram_vocab_size=128815,
        engram_table_size=[5171200] * 2,
        max_ngram_size=3,
        layer_ids=[1, 15],
        pad_id=2,
        seed=0,
    )
    assert multipliers(config, 98627) == {
        1: (76993395940407, 4862694818241, 36129212583461),
        15: (29055444938695, 56284491166079, 54183298291715),
    }
    primes = head_primes(config)
    assert primes[1][0][:3] == [646403, 646411, 646421]
    assert primes[15][1][-1] == 646879


def test_known_v41_constants():
    config = EngramConfig(
        layout="deepseek_v41",
        hidden_size=16,
        engram_vocab_size=129280,
        engram_table_size=[128_000_000] * 3,
        max_ngram_size=4,
        layer_ids=[1, 14],
        pad_id=2,
    )
    assert multipliers(config, 99092) == {
        1: (76632096046245, 4839876093313, 35959672319349, 73987337458391),
        14: (67716810739261, 51510806800915, 30921347202721, 82619226485591),
    }
    primes = head_primes(config)
    rows = [sum(map(sum, primes[layer])) for layer in (1, 14)]
    assert rows == [384006168, 384016682]
    assert (primes[1][0][0], primes[1][2][-1]) == (16000057, 16000463)
    assert (primes[14][0][0], primes[14][2][-1]) == (16000477, 16000889)

"""The main job on a real checkpoint, real tokenizers and real text (`make real`)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import engram
from engram import EngramTokenizer
from engram.addressing.reference import hash_ids
from engram.config.templates import load_template
from support import tiny
from support.cli import command
from support.peak_memory import run_measured

pytestmark = pytest.mark.real

TEXT = "Only Alexander the Great could tame the horse Bucephalus. By the way, the Milky Way is"


@pytest.fixture(scope="module")
def base(real_assets):
    return real_assets / "smollm2-135m"


@pytest.fixture(scope="module")
def attached(base, tmp_path_factory):
    config = replace(load_template("smollm2"), tokenizer=None)
    folder = tmp_path_factory.mktemp("real") / "attached"
    engram.attach(base, config, folder, link=False)
    return folder


@pytest.fixture(scope="module")
def ids(base):
    return AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_bases_bit_for_bit(base, attached, ids, dtype):
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    assert torch.equal(plain(ids).logits, engram.load(attached, dtype=dtype)(ids).logits)


def test_constants_after_from_pretrained(base, attached):
    tokenizer = EngramTokenizer(load_template("smollm2"), str(base))
    model = engram.load(attached)
    decoder = model.get_decoder()
    assert model.config.engram["addresses"] == tokenizer.addresses.to_dict()
    assert np.array_equal(decoder.engram_token_map.numpy(), tokenizer.addresses.token_map)
    for layer in tokenizer.addresses.layers:
        table = decoder.engram_layers[layer.layer_id].engram.multi_head_embedding
        assert table.offsets.tolist() == list(layer.offsets)
        assert table.embedding.weight.shape == (layer.stored_rows, 64)


def test_cached_greedy_generation_equals_uncached(attached, ids):
    model = tiny.randomise(engram.load(attached)).requires_grad_(False)
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    cached = model.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    assert not torch.equal(cached, engram.load(attached).generate(ids, **options))


def test_hashing_100_mb_stays_below_2_gb(real_assets, tmp_path):
    words = ("hash", real_assets / "english.txt", "--stats", "--json", "--on-error", "skip")
    tokenizer = real_assets / "tokenizers" / "deepseek-v3"
    done, peak_bytes = run_measured(command(*words, "-t", tokenizer), tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["compressed_vocab_size"] == 98627
    assert answer["tokens"] > 25_000_000
    assert peak_bytes < 2e9


def test_ids_of_real_text_equal_the_reference(real_assets):
    config = replace(load_template("demo"), tokenizer=None)
    tokenizer = EngramTokenizer(config, str(real_assets / "tokenizers" / "deepseek-v3"))
    with (real_assets / "english.txt").open(encoding="utf-8", errors="replace") as file:
        file.seek(50_000_000)
        text = file.read(200_000)
    from tokenizers import Tokenizer

    path = real_assets / "tokenizers" / "deepseek-v3" / "tokenizer.json"
    ids = np.array([Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids])
    assert ids.size > 30_000
    expected, _ = hash_ids(tokenizer.addresses, ids)
    assert np.array_equal(tokenizer.compress_and_hash(ids), expected)

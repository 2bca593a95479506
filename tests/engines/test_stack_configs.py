"""Configs of training stacks: fields against what the stacks compute of them, losses, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import sympy

import engram
from engram.addressing.addresses import Addresses
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.engines.training_stacks import STACKS
from engram.errors import InputError, LayoutError, MissingFileError, UsageError
from engram.layouts import LAYOUTS
from engram.layouts.settings import config_keys, read_settings
from support import tiny
from support.cli import run
from support.paths import BPE
from support.qwen import TINY

TEMPLATES = {
    "demo": "demo",
    "deepseek_v41": "deepseek-v4.1-flash",
    "qwen_ple": "qwen3.8-flash-next",
}
CASES = [(to, layout) for to, stack in STACKS.items() for layout in stack.forms]
REFUSED = [it for it in product(STACKS, LAYOUTS) if it not in CASES]


def demo(**changes):
    """A memory of layout demo whose tokenizer is there."""
    return tiny.memory_config(**{"layout": "demo", "tokenizer": str(BPE), **changes})


def fields(config, to, **options):
    return engram.export_config(config, to, **options).fields


def lost(config, to):
    return {it.key for it in engram.export_config(config, to).unexpressed}


def next_primes(bases, heads, layers):
    """A prime of its own for each head: the loop of Megatron's and MaxText's allocation."""
    seen, found = set(), []
    for _ in range(layers):
        for base in bases:
            start = base - 1
            for _ in range(heads):
                start += 1
                while start in seen or not sympy.isprime(start):
                    start += 1
                seen.add(start)
                found.append(start)
    return found


def primes_of(addresses):
    return [rows for layer in addresses.layers for order in layer.primes for rows in order]


def test_transformers_computes_the_same_constants(tmp_path):
    from transformers import AutoModelForCausalLM, Qwen4ExpTextConfig

    config = EngramConfig(
        layout="qwen_ple", hidden_size=16, engram_vocab_size=96, engram_table_size=[150, 150],
        max_ngram_size=3, n_embed_per_ngram=12, n_head_per_ngram=3, layer_ids=[3, 1], hc_mult=4,
        kernel_size=3, eos_id=5, seed=77, eps=1e-5, row_multiple=16,
    )  # fmt: skip
    exported = fields(config, "transformers")
    assert exported["model_type"] == Qwen4ExpTextConfig.model_type
    unknown = set(exported) - set(Qwen4ExpTextConfig().to_dict())
    assert unknown == set()
    layers = ["linear_attention"] * 4
    others = {k: v for k, v in TINY.items() if k not in exported}
    theirs = Qwen4ExpTextConfig(**others, **exported, layer_types=layers)
    model = AutoModelForCausalLM.from_config(theirs)
    addresses = Addresses.from_config(config, None)
    for layer in addresses.layers:
        ple = model.model.layers[layer.layer_id].ple
        buffers = ple.ple_embedding
        assert buffers.layer_multipliers.tolist() == list(layer.multipliers)
        assert buffers.ngram_heads_offsets.tolist() == list(layer.offsets)
        assert buffers.ngram_embedding.weight.shape == (layer.stored_rows, config.row_width)
        assert buffers.eos_token_id == 5
        assert ple.conv1d.weight.shape[-1] == 3


def test_megatron_draws_the_multipliers_of_the_demo():
    config = demo(layer_ids=[0, 2, 1], seed=5)
    exported = fields(config, "megatron")
    assert exported["--engram-layer-ids"] == [1, 3, 2]
    addresses = engram.EngramTokenizer(config, str(BPE)).addresses
    for number, layer in zip(exported["--engram-layer-ids"], addresses.layers, strict=True):
        # tools/engram/generate_tokenizer_map.py of the pull request
        draw = np.random.default_rng(exported["--engram-hash-seed"] + 10007 * number)
        half = max(1, np.iinfo(np.int64).max // addresses.vocab_size // 2)
        values = draw.integers(0, half, (config.max_ngram_size,), dtype=np.int64)
        assert (values * 2 + 1).tolist() == list(layer.multipliers)
    heads = exported["--engram-num-hash-heads"]
    assert next_primes(exported["--engram-vocab-sizes"], heads, 3) == primes_of(addresses)
    assert exported["--engram-memory-dim"] // heads == config.row_width
    assert exported["--engram-pad-token-id"] == 2


def test_megatron_computes_the_constants_of_qwen():
    config = replace(load_template("qwen3.8-flash-next"), layer_ids=[4, 1])
    exported = fields(config, "megatron")
    addresses = Addresses.from_config(config, None)
    assert attention_before(exported["--engram-layer-ids"], "GEGEGEQEGEGEGEQE") == [1, 4]
    assert set(exported["--engram-vocab-sizes"]) == {20_000_000}
    base, count = exported["--engram-vocab-sizes"][0], 2 * 8 * 2
    found, value = [], base - 1
    while len(found) < count:
        value = int(sympy.nextprime(value))
        found.append(value)
    by_layer = {layer.layer_id: layer for layer in addresses.layers}
    ours = [rows for i in (1, 4) for order in by_layer[i].primes for rows in order]
    assert found == ours
    assert exported["--engram-unigram-vocab-size"] == 248320
    assert exported["--engram-hash-seed"] == 1234


def test_megatron_is_told_the_layers_of_the_released_qwen():
    # docs/models/qwen3.8_flash_next/training/full_model_64gpu.md of Megatron-LM
    theirs = """--engram-variant qwen --engram-layer-ids 3 --engram-vocab-sizes 20000000 20000000
    --engram-max-ngram-order 3 --engram-num-hash-heads 8 --engram-memory-dim 1280
    --engram-kernel-size 4 --engram-unigram-vocab-size 248320
    --engram-hash-seed 1234 --engram-eos-token-id 248044"""
    exported = engram.export_config("qwen3.8-flash-next", "megatron")
    assert flags(exported.text) == flags(theirs)
    assert any("GEGEGEQE" in need and "blocks 1 counted from 0" in need for need in exported.needs)


def test_megatron_computes_the_constants_of_v41():
    exported = fields("deepseek-v4.1-flash", "megatron")
    assert exported["--engram-variant"] == "deepseek_v41"
    # Placement and hash ids of test_v41_hash_identities_and_official_table_layout
    assert exported["--engram-layer-ids"] == [3, 29]
    assert exported["--engram-hash-layer-ids"] == [1, 14]
    assert attention_before(exported["--engram-layer-ids"], "*-" * 20) == [1, 14]
    heads, bases = exported["--engram-num-hash-heads"], exported["--engram-vocab-sizes"]
    primes = next_primes(bases, heads, 2)
    assert [sum(primes[:24]), sum(primes[24:])] == [384006168, 384016682]
    assert exported["--engram-pad-token-id"] == 2
    assert exported["--engram-memory-dim"] // heads == 256
    assert "--engram-kernel-size" not in exported
    config = tiny.memory_config(
        layout="deepseek_v41", tokenizer=str(BPE), engram_table_size=[302] * 3, kernel_size=0,
        seed=0, layer_ids=[2, 0],
    )  # fmt: skip
    exported = fields(config, "megatron")
    addresses = engram.EngramTokenizer(config, str(BPE)).addresses
    half = np.iinfo(np.int64).max // addresses.vocab_size // 2
    for number, layer in zip(exported["--engram-hash-layer-ids"], addresses.layers, strict=True):
        draw = np.random.default_rng(exported["--engram-hash-seed"] + 10007 * number)
        values = draw.integers(0, half, (config.max_ngram_size,), dtype=np.int64) * 2 + 1
        assert values.tolist() == list(layer.multipliers)
    heads = exported["--engram-num-hash-heads"]
    assert next_primes(exported["--engram-vocab-sizes"], heads, 2) == primes_of(addresses)


def flags(text):
    """Values of a command line's flags."""
    parts = text.replace("\\", " ").split("--")[1:]
    return {name: values for name, *values in map(str.split, parts)}


def attention_before(layer_ids, pattern):
    """Blocks that layers of a hybrid stack begin, as Megatron's layer_specs.py finds them."""
    attention = [at + 1 for at, symbol in enumerate(pattern) if symbol in "GQ*"]
    return [attention.index(it) for it in layer_ids]


def test_maxtext_has_the_primes_and_other_multipliers():
    config = demo(layer_ids=[1, 2], kernel_size=4)
    exported = fields(config, "maxtext")
    addresses = engram.EngramTokenizer(config, str(BPE)).addresses
    heads = exported["engram_num_heads"]
    assert next_primes(exported["engram_vocab_bases"], heads, 2) == primes_of(addresses)
    assert len(exported["engram_vocab_bases"]) == exported["engram_max_ngram_size"] - 1
    assert exported["engram_head_dim"] == config.row_width
    # layers/engram.py draws as many as fit 32 bits.
    half = max(1, np.iinfo(np.int32).max // addresses.vocab_size // 2)
    draw = np.random.default_rng(exported["engram_seed"] + 10007 * 1)
    theirs = draw.integers(0, half, (config.max_ngram_size,), dtype=np.int32) * 2 + 1
    assert theirs.tolist() != list(addresses.layers[0].multipliers)
    assert "multipliers" in lost(config, "maxtext")


@pytest.mark.parametrize(
    ("to", "layout"),
    [it for it in CASES if it[0] in ("transformers", "vllm", "nemo") and it[1] != "demo"],
)
def test_fields_of_a_release_give_the_memory_back(to, layout):
    config = load_template(TEMPLATES[layout])
    exported = fields(config, to)
    values, problems = read_settings(LAYOUTS[layout].released.settings, exported)
    assert problems == []
    again = EngramConfig(layout=layout, **config_keys(values))
    same = ("hidden_size", "engram_table_size", "layer_ids", "max_ngram_size", "n_head_per_ngram",
            "row_width", "hc_mult", "eps", "engram_vocab_size", "kernel_size", "row_multiple",
            "seed", "eos_id")  # fmt: skip
    assert {key: getattr(again, key) for key in same} == {key: getattr(config, key) for key in same}
    if layout == "deepseek_v41":
        assert exported["engram_num_embeddings"] == [384006168, 384016682]
        assert exported["engram_compressed_vocab_size"] == 99092
        assert again.pad_id == 2


def test_the_compressed_size_is_the_tokenizers():
    config = tiny.memory_config(
        layout="deepseek_v41", tokenizer=str(BPE), engram_table_size=[302] * 3, kernel_size=0,
        seed=0, layer_ids=[1],
    )  # fmt: skip
    size = engram.EngramTokenizer(config, str(BPE)).addresses.vocab_size
    assert fields(config, "vllm")["engram_compressed_vocab_size"] == size
    nameless = replace(config, tokenizer=None)
    assert fields(nameless, "nemo", tokenizer=str(BPE))["engram_compressed_vocab_size"] == size
    with pytest.raises(MissingFileError, match="-t TOKENIZER|tokenizer"):
        fields(replace(config, tokenizer="./nowhere"), "nemo")
    with pytest.raises(InputError):
        fields(nameless, "nemo")


def test_a_pad_that_is_named_becomes_a_token_id():
    token = json.loads((BPE / "tokenizer_config.json").read_text())["pad_token"]
    named = fields(demo(pad_id=token), "megatron")["--engram-pad-token-id"]
    assert named == fields(demo(), "megatron", tokenizer=str(BPE))["--engram-pad-token-id"] == 2


# By stack and layout: a change that the stack cannot express, and the key that is told.
LOSSES = [
    ("megatron", "demo", {"eps": 1e-6}, "eps"),
    ("megatron", "demo", {"row_multiple": 8}, "row_multiple"),
    ("megatron", "demo", {"table_dtype": "float16"}, "table_dtype"),
    ("megatron", "demo", {"ends_after_eos": True, "eos_id": 1}, "ends_after_eos"),
    ("megatron", "demo", {"use_offload": True}, "use_offload"),
    ("megatron", "demo", {"offload_cache_lines": 4}, "offload_cache_lines"),
    ("megatron", "qwen_ple", {"table_dtype": "fp8"}, "table_dtype"),
    ("megatron", "deepseek_v41", {"ends_after_eos": True, "eos_id": 1}, "ends_after_eos"),
    ("maxtext", "demo", {"eps": 1e-6}, "eps"),
    ("maxtext", "demo", {"row_multiple": 8}, "row_multiple"),
    ("maxtext", "demo", {"table_dtype": "float16"}, "table_dtype"),
    ("maxtext", "demo", {"ends_after_eos": True, "eos_id": 1}, "ends_after_eos"),
    ("transformers", "qwen_ple", {"hc_mult": 1}, "hc_mult"),
    ("transformers", "qwen_ple", {"table_dtype": "int8"}, "table_dtype"),
    ("vllm", "deepseek_v41", {"table_dtype": "bfloat16"}, "table_dtype"),
    ("vllm", "deepseek_v41", {"row_multiple": 8}, "row_multiple"),
    ("vllm", "deepseek_v41", {"ends_after_eos": True, "eos_id": 1}, "ends_after_eos"),
    ("vllm", "qwen_ple", {"hc_mult": 1}, "hc_mult"),
    ("nemo", "deepseek_v41", {"layer_ids": [14, 1]}, "layer_ids"),
    ("nemo", "qwen_ple", {"layer_ids": [1, 2]}, "layer_ids"),
    ("nemo", "qwen_ple", {"seed": 1}, "seed"),
    ("nemo", "qwen_ple", {"engram_vocab_size": 248321}, "engram_vocab_size"),
    ("nemo", "qwen_ple", {"engram_table_size": [800, 800]}, "engram_table_size"),
    ("nemo", "qwen_ple", {"n_head_per_ngram": 4}, "n_head_per_ngram"),
]


@pytest.mark.parametrize(("to", "layout", "change", "key"), LOSSES)
def test_what_a_stack_cannot_express_is_told(to, layout, change, key):
    usual = {"eps": None, "table_dtype": None, "pad_id": 2}
    config = demo(**usual) if layout == "demo" else load_template(TEMPLATES[layout])
    assert key not in lost(config, to)
    assert key in lost(replace(config, **change), to)


def test_every_loss_that_is_stated_is_tried():
    stated = {
        (to, layout, key)
        for to, stack in STACKS.items()
        for layout, form in stack.forms.items()
        for key in form.built_in
    }
    tried = {(to, layout, key) for to, layout, _, key in LOSSES}
    always = {("maxtext", "demo", "pad_id")}
    shared = {  # the same row of the table as another that is tried
        *{("megatron", "qwen_ple", key) for key in ("eps", "row_multiple")},
        *{("megatron", "deepseek_v41", key) for key in ("eps", "row_multiple", "table_dtype")},
        *{("nemo", "deepseek_v41", key) for key in ("row_multiple", "ends_after_eos")},
        *{("nemo", "qwen_ple", key) for key in ("hc_mult", "max_ngram_size")},
    }
    assert stated <= tried | always | shared


@pytest.mark.parametrize(("to", "layout"), REFUSED)
def test_layouts_without_public_fields_are_refused_with_the_reason(to, layout):
    with pytest.raises(LayoutError) as refused:
        engram.export_config(TEMPLATES[layout], to)
    assert STACKS[to].refused[layout] in refused.value.message
    shown = run("config", "export", TEMPLATES[layout], "--to", to, "--json").error(3)
    assert shown["details"]["layout"] == layout


def test_a_stack_that_is_not_known_is_a_usage_error():
    with pytest.raises(UsageError, match="'keras'"):
        engram.export_config("demo", "keras")
    run("config", "export", "demo", "--to", "keras").ended(2)
    run("config", "export", "demo").ended(2)


@pytest.mark.parametrize(("to", "layout"), CASES)
def test_the_answer_and_the_file_are_the_same(to, layout, tmp_path):
    file = tmp_path / "config.json"
    line = ("config", "export", TEMPLATES[layout], "--to", to)
    needs_tokenizer = layout != "qwen_ple" and to == "megatron"
    answer = run(*line, "-o", file, "--json").json()
    assert json.loads(file.read_text()) == answer
    assert next(iter(answer)) == "schema"
    assert answer["schema"] == "engram.config-export/1"
    assert {"to", "layout", "place", "fields_from", "status", "fields", "not_expressed"} < set(
        answer
    )
    run(*line, "-o", file).ended(3)
    shown = run(*line, "-o", file, "--overwrite").ended(0).stdout
    assert all(name in shown for name in answer["fields"])
    assert all(it["why"] in shown for it in answer["not_expressed"])
    assert "{" not in "".join(answer["needs"])
    assert needs_tokenizer == any("generate_tokenizer_map" in need for need in answer["needs"])


def test_fields_are_shown_as_the_stack_takes_them():
    def text(template, to):
        return engram.export_config(template, to).text

    assert text("demo", "megatron").startswith("--engram-variant deepseek \\\n--engram-layer-ids 2")
    assert "\nengram_layers: [1, 15]\n" in text("demo", "maxtext")
    stated = json.loads(text("qwen3.8-flash-next", "transformers"))
    assert stated["ple_layer_ids"] == [2]


def test_a_tokenizer_that_is_given_is_the_one_that_is_named():
    exported = engram.export_config("demo", "maxtext", tokenizer="organisation/name")
    assert "organisation/name" in exported.to_dict()["fields"].values()

"""Dialects of GGUF: each is found by its own keys and tensors, and by no other's."""

import pytest

from engram.layouts import LAYOUTS
from engram.layouts.gguf_dialects import DIALECTS, find_dialect

NAMES = [it.name for it in DIALECTS]


def keys_of(dialect):
    return {
        f"{dialect.architectures[0]}.{fact.name}"
        for fact in dialect.facts.values()
        if not fact.is_tensor
    }


def tensors_of(dialect, layers=(1, 14)):
    templates = [it for it in (dialect.table, dialect.scales, *dialect.weights.values()) if it]
    constants = [fact.name for fact in dialect.facts.values() if fact.is_tensor]
    return {it.replace("{layer}", str(layer)) for it in templates for layer in layers} | {
        *constants
    }


@pytest.mark.parametrize("dialect", DIALECTS, ids=NAMES)
def test_a_whole_file_is_of_its_own_dialect(dialect):
    assert find_dialect(keys_of(dialect), tensors_of(dialect)) is dialect
    if dialect.name != "gguf_mx":  # whose keys are a part of those that others have, too
        assert find_dialect(keys_of(dialect), ()) is dialect


@pytest.mark.parametrize("name", ["gguf_ds4", "gguf_mx", "gguf_tarruda", "gguf_jig", "gguf_llama"])
def test_tensors_alone_tell_the_dialect(name):
    (dialect,) = (it for it in DIALECTS if it.name == name)
    assert find_dialect((), tensors_of(dialect)) is dialect


def test_a_file_of_the_first_wave_without_constants_is_of_llama_cpp():
    keys = {"deepseek41.engram.layer_ids", "deepseek41.engram.max_ngram_size"}
    tensors = {"blk.1.engram_embd.weight", "blk.1.engram_wkv.weight"}
    assert find_dialect(keys, tensors).name == "gguf_llama"


def test_keys_for_most_engines_are_those_of_llama_cpp():
    names = (
        *("layer_ids", "head_count", "key_length", "head_dim", "n_heads", "max_ngram_size"),
        *("ngram_size", "compressed_vocab_size", "pad_id", "pad_token_id", "rows"),
        *("num_embeddings", "token_map", "primes", "offsets", "multipliers"),
    )
    keys = {f"deepseek41.engram.{name}" for name in names}
    (llama,) = (it for it in DIALECTS if it.name == "gguf_llama")
    assert find_dialect(keys, tensors_of(llama)) is llama


def test_a_table_alone_is_told_by_the_architecture():
    table = {"per_layer_token_embd.weight"}
    assert find_dialect((), table, "qwen4exp").name == "gguf_qwen4exp"
    # Gemma 3n has a tensor of that name.
    assert find_dialect({"gemma3n.block_count"}, table, "gemma3n") is None


def test_a_file_without_a_memory_is_of_no_dialect():
    keys = {"llama.block_count", "general.architecture", "tokenizer.ggml.tokens"}
    assert find_dialect(keys, {"blk.1.attn_q.weight", "token_embd.weight"}) is None
    assert find_dialect((), ()) is None


@pytest.mark.parametrize("dialect", DIALECTS, ids=NAMES)
def test_dialects_are_of_layouts_and_name_their_parts_as_these_do(dialect):
    assert set(dialect.weights) <= set(LAYOUTS[dialect.layout].all_tensors)
    places = [fact.name for fact in dialect.facts.values()]
    assert len(places) == len(set(places))


def test_layers_are_read_from_names_in_order():
    names = ["blk.14.engram_embd.weight", "blk.1.engram_embd.weight", "blk.x.engram_embd.weight"]
    (dialect,) = (it for it in DIALECTS if it.name == "gguf_ds4")
    assert list(dialect.tensor_layers(dialect.table, names)) == [1, 14]
    assert list(dialect.tensor_layers("per_layer_token_embd.weight", names)) == []

"""Exact counts, and the largest memory that fits a budget."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest

import engram
from engram.backbone import load_backbone
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.errors import ConfigError, DoesNotFitError, InputError, LayoutError, UsageError
from engram.layouts import get_layout
from engram.sizing.budget import count_rows, k_of, rows_of_k, seed_rule_k, share_budget
from engram.sizing.counts import count_params
from engram.sizing.plan import Limits, Planner
from engram.sizing.run_options import RunOptions
from engram.sizing.shape import default_layers, memory_shape, tokenizer_length
from engram.sizing.weights import config_weights
from support.paths import TOKENIZERS

GPT2_PARAMS = 124_439_808


def largest(shape, budget=None, memory=None, options=None):
    """The largest memory of a shape within a budget of parameters or bytes, on any machine."""
    limits = Limits(params=budget, memory_bytes=memory)
    options = RunOptions() if options is None else options
    return Planner(shape=shape, backbone=None, options=options, limits=limits).largest()


# Rows stored by layer, rows that ids reach, table parameters, first and last prime.
KNOWN = {
    "demo": ([10_344_164, 10_348_242], None, 1_324_313_984, (646_403, 646_879)),
    "engram-27b": ([36_199_972, 36_204_260], None, 5_792_338_560, (2_262_409, 2_262_859)),
    "engram-40b": ([115_837_464, 115_841_428], None, 18_534_311_360, (7_239_691, 7_240_183)),
    "deepseek-v4.1-flash": (
        [384_006_168, 384_016_682],
        None,
        196_613_849_600,
        (16_000_057, 16_000_889),
    ),
    "qwen3.8-flash-next": (
        [320_001_536],
        [320_001_446],
        51_200_245_760,
        (20_000_003, 20_000_171),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_models_count_as_published(name):
    rows, hash_rows, table_params, ends = KNOWN[name]
    counts = count_params(load_template(name))
    assert [layer.rows for layer in counts.layers] == rows
    assert [layer.hash_rows for layer in counts.layers] == (hash_rows or rows)
    assert counts.table_params == table_params
    primes = [prime for layer in counts.layers for heads in layer.primes for prime in heads]
    assert (primes[0], primes[-1]) == ends
    assert len(set(primes)) == len(primes)


def test_dense_parts_of_published_models():
    demo, paper = (count_params(load_template(name)) for name in ("demo", "engram-27b"))
    assert demo.total_params == 1_334_867_328
    assert [layer.dense_params for layer in demo.layers] == [5_276_672] * 2
    assert [layer.dense_params for layer in paper.layers] == [16_468_480] * 2
    parts = paper.layers[0].dense_parts
    biases = 2560 * 5
    assert parts["value_proj"] + parts["key_proj"] - biases == 16_384_000
    assert parts["conv"] == 40_960
    assert parts["norm_key"] + parts["norm_query"] + parts["conv_norm"] == 30_720


def test_parts_add_up():
    config = load_template("qwen3.8-flash-next")
    counts = count_params(config)
    assert counts.rows * config.row_width == counts.table_params
    assert sum(layer.table_params + layer.dense_params for layer in counts.layers) == (
        counts.total_params
    )
    assert sum(counts.layers[0].to_dict()["dense_parts"].values()) == counts.dense_params


def test_gpt2_by_the_seeds_rule():
    gpt2 = load_backbone("gpt2")
    budget = share_budget(gpt2.params)
    assert (gpt2.params, budget) == (GPT2_PARAMS, 41_479_936)
    for hidden_size in (None, 1024):
        options = engram.SizeOptions(hidden_size=hidden_size, whole_k=True)
        sizing = engram.size(gpt2, options)
        assert (sizing.k, sizing.seed_rule_k) == (2, 2)
        assert sizing.config.engram_table_size == [100_514, 100_514]
        assert sizing.config.rows_per_head == [12_564, 12_564]
        assert sizing.counts.total_params + sizing.slack_params == budget
        assert sizing.config.layer_ids == [1, 6]
        # All that fits, where nobody asked for a whole k.
        filled = engram.size(gpt2, replace(options, whole_k=False))
        assert filled.k == 2 < filled.k_fill < 3
        assert filled.config.engram_table_size == [round(filled.k_fill * 50_257)] * 2
        assert 0 <= filled.slack_params < sizing.slack_params


def readme_k(model_params, hidden, n_embed, heads, streams, top, kernel, layers, vocab):
    """The README's code, word for word but for its names."""
    memory = (top - 1) * n_embed
    proj = (memory * hidden) + (streams * memory * hidden)
    conv = (hidden * streams) * kernel
    budget = model_params / 3 - (proj + conv) * layers
    cost = layers * (top - 1) * vocab * (n_embed // heads)
    k = int(budget / cost) if budget > 0 else 1
    return max(1, k)


def test_seed_rule_is_the_readmes_formula():
    draw = random.Random(0)
    for _ in range(300):
        heads, streams, top = draw.choice([1, 4, 8]), draw.choice([1, 4]), draw.choice([2, 3, 4])
        hidden, width, kernel = (
            draw.choice([64, 768, 2560]),
            draw.choice([8, 64]),
            draw.choice([2, 4]),
        )
        layers, vocab = draw.choice([1, 2, 3]), draw.randrange(1000, 200_000)
        params = draw.randrange(10**6, 10**10)
        shape = EngramConfig(
            hidden_size=hidden,
            engram_vocab_size=vocab,
            k=1,
            max_ngram_size=top,
            n_embed_per_ngram=width * heads,
            n_head_per_ngram=heads,
            layer_ids=list(range(layers)),
            hc_mult=streams,
            kernel_size=kernel,
        )
        expected = readme_k(
            params, hidden, width * heads, heads, streams, top, kernel, layers, vocab
        )
        assert seed_rule_k(shape, share_budget(params)) == expected


def random_shape(draw):
    layout, heads = (
        draw.choice(["demo", "demo", "deepseek_v41", "qwen_ple"]),
        draw.choice([1, 3, 8]),
    )
    top = draw.choice([2, 3, 4])
    return EngramConfig(
        layout=layout,
        hidden_size=draw.choice([16, 96]),
        engram_vocab_size=draw.randrange(20, 3000),
        engram_table_size=[2 * heads] * (top - 1),
        max_ngram_size=top,
        n_embed_per_ngram=heads * draw.choice([2, 16]),
        n_head_per_ngram=heads,
        layer_ids=draw.choice([[1], [3, 1], [0, 5, 2]]),
        hc_mult=draw.choice([1, 3]),
        eos_id=3,
    )


def total(shape, rows):
    return count_rows(shape, rows).total_params


@pytest.mark.parametrize("seed", range(40))
def test_filling_size_is_the_boundary(seed):
    draw = random.Random(seed)
    shape = random_shape(draw)
    heads = shape.n_head_per_ngram
    budget = total(shape, 2 * heads) + draw.randrange(0, 300_000)
    plan = largest(shape, budget)
    rows = plan.rows_per_order
    assert total(shape, rows) == plan.trial.counts.total_params <= budget
    assert plan.binding == ("budget",)
    # By brute force: nothing larger fits, and nothing smaller costs more.
    assert all(total(shape, rows + more) > budget for more in (*range(1, 3 * heads), 1000))
    smaller = [total(shape, size) for size in range(max(2 * heads, rows - 50), rows + 50)]
    assert smaller == sorted(smaller)


def test_a_larger_budget_never_gives_less():
    shape = memory_shape(load_backbone("gpt2"))
    plans = [largest(shape, budget) for budget in range(16_400_000, 120_000_000, 7_654_321)]
    rows = [plan.rows_per_order for plan in plans]
    assert rows == sorted(set(rows))


@pytest.mark.parametrize(
    ("share", "budget"),
    [
        ("0.25", 41_479_936),
        (0.2, 31_109_952),
        ("20%", 31_109_952),
        ("2e-1", 31_109_952),
        ("0.5", GPT2_PARAMS),
    ],
)
def test_share_is_of_the_whole_after_attaching(share, budget):
    assert share_budget(GPT2_PARAMS, share) == budget
    assert share_budget(GPT2_PARAMS * 10**6 + 2) == (GPT2_PARAMS * 10**6 + 2) // 3


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2", "nan", "inf", "a fifth", "1/0"])
def test_shares_that_are_none(share):
    with pytest.raises(InputError):
        share_budget(GPT2_PARAMS, share)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8", "int8"])
def test_memory_budget_holds_in_bytes(dtype):
    shape = replace(memory_shape(load_backbone("gpt2")), table_dtype=dtype)
    for budget_bytes in (2**26, 123_456_789):
        plan = largest(shape, memory=budget_bytes)

        def size_bytes(rows):
            counts = count_rows(shape, rows)
            return sum(part.size_bytes for part in config_weights(counts, shape.stored_dtype()))

        assert size_bytes(plan.rows_per_order) <= budget_bytes
        assert budget_bytes < size_bytes(plan.rows_per_order + 1)
    with pytest.raises(DoesNotFitError):
        largest(shape, memory=10_000)


def test_nothing_fits_says_what_would():
    gpt2 = load_backbone("gpt2")
    whole = engram.SizeOptions(budget=10**7, whole_k=True)
    with pytest.raises(DoesNotFitError, match="budget of 10,000,000") as caught:
        engram.size(gpt2, whole)
    details = caught.value.details
    needed = details["smallest_budget_params"]
    assert (details["k"], details["seed_rule_k"]) == (0, 1)
    assert details["missing"] == {"budget": needed - 10**7}
    assert engram.size(gpt2, replace(whole, budget=needed)).k == 1
    with pytest.raises(DoesNotFitError):
        engram.size(gpt2, replace(whole, budget=needed - 1))
    with pytest.raises(DoesNotFitError) as caught:
        engram.size(gpt2, engram.SizeOptions(budget=0))
    needed = caught.value.details["smallest_budget_params"]
    assert engram.size(gpt2, engram.SizeOptions(budget=needed)).k == 0
    with pytest.raises(DoesNotFitError):
        engram.size(gpt2, engram.SizeOptions(budget=needed - 1))
    with pytest.raises(UsageError, match="budget must be >= 0, got -1"):
        engram.SizeOptions(budget=-1)


def test_cost_of_given_sizes():
    shape = memory_shape(load_backbone("gpt2"))
    assert rows_of_k(shape, 2) == 100_514
    assert k_of(count_rows(shape, 100_514).config) == 2
    assert isinstance(k_of(count_rows(shape, 100_514).config), int)
    assert k_of(count_rows(shape, 100_515).config) == 100_515 / 50_257
    assert k_of(count_rows(shape, [100_514, 201_028]).config) is None
    for k in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError):
            rows_of_k(shape, k)
    with pytest.raises(ConfigError):
        count_rows(shape, 3)


def test_shape_follows_the_model_and_the_layout():
    gpt2 = load_backbone("gpt2")
    shape = memory_shape(gpt2)
    assert (shape.hidden_size, shape.engram_vocab_size, shape.hc_mult) == (768, 50_257, 1)
    assert (shape.orders, shape.row_width, shape.pad_id) == ((2, 3), 64, 50_256)
    v41 = memory_shape(gpt2, layout="deepseek_v41")
    assert (v41.orders, v41.kernel_size, v41.table_dtype) == ((2, 3, 4), 0, None)
    qwen2 = load_backbone("Qwen/Qwen2.5-0.5B")
    assert qwen2.tokenizer_vocab_size < qwen2.vocab_size
    assert memory_shape(qwen2).engram_vocab_size == qwen2.tokenizer_vocab_size
    # Raw ids may be any row of the embedding.
    assert get_layout("qwen_ple").hashes == "raw"
    assert memory_shape(qwen2, layout="qwen_ple").engram_vocab_size == qwen2.vocab_size


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, [0]), (2, [1]), (3, [1]), (4, [1, 2]), (30, [1, 15])]
)
def test_default_layers(depth, layers):
    assert default_layers(depth) == layers


def test_tokenizer_length_of_a_folder(tmp_path):
    from tokenizers import Tokenizer

    source = TOKENIZERS
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 2, "vocab_size": 999}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    backbone = load_backbone(tmp_path)
    assert tokenizer_length(backbone) is None
    assert memory_shape(backbone).engram_vocab_size == 999
    for name in ("local_bpe", "local_word"):
        shutil.copy(source / name / "tokenizer.json", tmp_path)
        expected = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
        assert tokenizer_length(backbone) == expected != 999
        assert memory_shape(backbone).engram_vocab_size == expected
    for text in ("{", "[]", '{"model": {"vocab": 3}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert tokenizer_length(backbone) is None


def test_shapes_that_are_none():
    gpt2 = load_backbone("gpt2")
    with pytest.raises(LayoutError, match="must be in 0..11, got 12"):
        memory_shape(gpt2, layer_ids=[1, 12])
    with pytest.raises(LayoutError, match="Unknown layout 'paper'"):
        memory_shape(gpt2, layout="paper")
    with pytest.raises(UsageError):
        memory_shape(None, hidden_size=768, engram_vocab_size=50_257)
    with pytest.raises(UsageError, match="end-of-text"):
        memory_shape(None, layout="qwen_ple", hidden_size=8, engram_vocab_size=50, layer_ids=[1])
    for change in (
        {"n_head_per_ngram": 7},
        {"n_head_per_ngram": 0},
        {"n_embed_per_ngram": 0},
        {"hidden_size": 0},
        {"engram_vocab_size": 0},
        {"max_ngram_size": 1},
        {"hc_mult": 0},
        {"table_dtype": "float3"},
        {"layer_ids": [1, 1]},
        {"layer_ids": [-1]},
    ):
        with pytest.raises(ConfigError):
            memory_shape(gpt2, **change)


def test_no_layer_is_an_error():
    config = replace(load_template("gpt2"), layer_ids=[])
    with pytest.raises(LayoutError):
        count_params(config)


@pytest.mark.parametrize("name", ["demo", "engram-27b", "tiny", "gpt2"])
def test_closed_form_equals_the_built_module(name):
    from engram import EngramModule

    config = load_template(name)
    for layer in count_params(config).layers:
        module = EngramModule(config, layer.primes, device="meta")
        built = {}
        for key, parameter in module.named_parameters():
            part = key.split(".")[0]
            built[part] = built.get(part, 0) + parameter.numel()
        assert built.pop("multi_head_embedding") == layer.table_params
        assert built == layer.dense_parts

"""Cache curves equal simulated caches, for LRU and fixed sets, cold and warm."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict

import numpy as np
import pytest

from engram.addressing.reference import hash_ids
from engram.config.config_file import write_config
from engram.config.engram_config import EngramConfig
from engram.corpus.counts.cache_curve import TARGETS, CacheSample, cache_curve
from engram.errors import InputError
from support.cli import run
from support.counted import addresses_of, batch_of, random_documents
from support.paths import BPE

SMALL = EngramConfig(
    tokenizer=str(BPE),
    hidden_size=8, engram_vocab_size=544, k=3, n_embed_per_ngram=128, n_head_per_ngram=2,
    layer_ids=[4, 1], pad_id=2,
)  # fmt: skip


def simulate_lru(lookups, size):
    """Hit or miss of every look-up."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = []
    for row in lookups:
        hits.append(row in cache)
        if row in cache:
            cache.move_to_end(row)
        else:
            cache[row] = None
            if len(cache) > size:
                cache.popitem(last=False)
    return np.array(hits)


def zipf_ids(layer, tokens, seed=0):
    """Look-ups with frequent, rare and bursty rows."""
    rng = np.random.default_rng(seed)
    columns = []
    for rows in layer.heads:
        draws = rng.zipf(1.3, tokens) + rng.integers(0, 40, tokens) * (np.arange(tokens) % 3)
        columns.append(draws % rows)
    return np.stack(columns, axis=1).astype(np.int64)


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 3001])
def test_every_size_equals_a_simulation(tokens):
    layer = addresses_of("demo").layers[1]
    ids = zipf_ids(layer, tokens)
    curve = cache_curve(layer, ids)
    lookups = (ids + np.array(layer.offsets)).reshape(-1).tolist()
    half = tokens // 2 * ids.shape[1]
    counts, first, second = Counter(lookups), Counter(lookups[:half]), Counter(lookups[half:])
    assert curve.lookups == len(lookups)
    assert curve.distinct_rows == len(counts)
    assert curve.table_rows == layer.hash_rows
    assert curve.points[-1].rows == len(counts)
    sizes = [point.rows for point in curve.points]
    assert sizes == sorted(set(sizes))
    later = len(lookups) - half
    # The order in which rows were first read decides between equally frequent ones.
    numbers = {}
    for column in range(ids.shape[1]):
        for row in (ids[:, column] + layer.offsets[column]).tolist():
            numbers.setdefault(row, len(numbers))
    chosen = sorted(first, key=lambda row: (-first[row], numbers[row]))
    for point in curve.points:
        hits = simulate_lru(lookups, point.rows)
        assert point.lru_cold == hits.sum() / len(lookups)
        assert point.lru_warm == hits[half:].sum() / later
        best = [count for _, count in counts.most_common(point.rows)]
        assert point.static_cold == sum(count - 1 for count in best) / len(lookups)
        assert point.static_warm == sum(second[row] for row in chosen[: point.rows]) / later


def test_targets_are_the_fewest_rows():
    layer = addresses_of("demo").layers[0]
    ids = zipf_ids(layer, 1500, seed=4)
    curve = cache_curve(layer, ids)
    lookups = (ids + np.array(layer.offsets)).reshape(-1).tolist()
    half = 750 * ids.shape[1]
    assert [target.hit_rate for target in curve.targets] == list(TARGETS)
    reached = 0
    for target in curve.targets:
        if target.lru_rows is None:
            assert curve.points[-1].lru_warm < target.hit_rate
            continue
        reached += 1
        enough, short = (
            simulate_lru(lookups, target.lru_rows - less)[half:].mean() for less in (0, 1)
        )
        assert short < target.hit_rate <= enough
    assert reached >= 2


def test_a_sample_is_the_beginning_of_the_text():
    addresses, documents = addresses_of("deepseek_v41"), random_documents(2, 80)
    sample = CacheSample(addresses, most_tokens=600)
    for start in range(0, 80, 9):
        sample.add(batch_of(documents[start : start + 9]))
    assert sample.tokens == 600
    left, parts = 600, []
    for document in documents:
        cut = document[:left]
        left -= len(cut)
        if cut:
            parts.append(hash_ids(addresses, np.array([cut]))[0][0])
    ids = np.concatenate(parts)
    layers = sample.layers()
    assert [layer.layer_id for layer in layers] == addresses.layer_ids
    for index, (layer, constants) in enumerate(zip(layers, addresses.layers, strict=True)):
        assert layer == cache_curve(constants, ids[:, index])
        assert layer.lookups == 600 * addresses.n_columns
    # A text that is shorter than the sample is taken whole.
    whole = CacheSample(addresses, 10**6)
    whole.add(batch_of(documents))
    assert whole.tokens == sum(map(len, documents))


@pytest.mark.parametrize("tokens", [0, -5, 2**31])
def test_sizes_that_cannot_be(tokens):
    with pytest.raises(InputError, match="must be in 1.."):
        CacheSample(addresses_of("demo"), tokens)


@pytest.fixture
def hashed(tmp_path):
    """Run `engram hash` on a small text with more options; its output and its text."""

    def run_hash(*words):
        text, config = tmp_path / "text.txt", tmp_path / "config.yaml"
        text.write_text("Alexander the Great saw the Milky Way.\n\nBy the way, he did.\n\n" * 30)
        write_config(config, SMALL, overwrite=True)
        return run("hash", text, "-c", config, *words)

    return run_hash


def test_the_command_prints_the_curve_with_its_bytes(hashed):
    code, out, err = hashed("--cache-curve", "--cache-tokens", "100", "--json")
    assert code == 0, err
    payload = json.loads(out)
    cache = payload["cache"]
    assert (cache["tokens"], cache["is_whole_text"]) == (100, False)
    assert (cache["rows_per_token"], cache["row_width"]) == (4, 64)
    assert cache["row_bytes"] == {"float32": 256, "bfloat16": 128, "fp8": 66, "int8": 68}
    assert [layer["layer_id"] for layer in cache["layers"]] == [4, 1]
    for layer, hashed_layer in zip(cache["layers"], payload["layers"], strict=True):
        assert layer["lookups"] == 400
        assert layer["table_rows"] == sum(head["rows"] for head in hashed_layer["heads"])
        for point in layer["points"]:
            assert point["bytes"]["fp8"] == 66 * point["rows"]
    assert json.loads(hashed("--json")[1])["cache"] is None
    whole = json.loads(hashed("--cache-curve", "--json")[1])
    assert (whole["cache"]["tokens"], whole["cache"]["is_whole_text"]) == (whole["tokens"], True)
    found = [layer["distinct_rows"] for layer in whole["cache"]["layers"]]
    assert found == [sum(head["rows_hit"] for head in layer["heads"]) for layer in whole["layers"]]


def test_the_command_prints_the_curve_as_text(hashed):
    code, out, err = hashed("--cache-curve")
    assert code == 0, err
    assert out.count("A row cache for layer") == 2
    assert "99% of look-ups" in out
    assert "Exact for these tokens." in out
    assert hashed("--cache-curve", "--cache-tokens", "0")[0] == 2

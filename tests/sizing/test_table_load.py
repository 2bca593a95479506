"""`engram size --corpus`: expected loads equal what is measured, and tables that have them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engram.config.config_file import read_config
from engram.config.templates import load_template
from engram.corpus.counts.statistics import Statistics
from engram.errors import InputError, MismatchError, MissingFileError
from engram.sizing.table_load import expected_rows_hit, read_statistics, rows_for_load
from support.cli import imported_by, run
from support.counted import addresses_of, batch_of, random_documents
from support.hashed_statistics import write_statistics


@pytest.mark.parametrize("distinct", [1, 10, 4000, 20_000])
def test_the_closed_form_is_the_mean_of_random_rows(distinct):
    rows, rng = 5003, np.random.default_rng(distinct)
    hits = [len(np.unique(rng.integers(0, rows, distinct))) for _ in range(200)]
    deviation = np.std(hits) / math.sqrt(200)
    assert abs(np.mean(hits) - expected_rows_hit(distinct, rows)) <= 4 * deviation + 1e-9


def test_the_closed_form_is_what_hashing_makes():
    addresses = addresses_of("demo")
    statistics = Statistics(addresses)
    statistics.add(batch_of(random_documents(5, 400)))
    for layer in statistics.layers():
        for head in layer.heads:
            expected = expected_rows_hit(head.distinct_ngrams, head.rows)
            assert head.rows_hit == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("distinct", [1, 3, 1000, 10**6])
@pytest.mark.parametrize("load", [0.01, 0.3, 0.7, 0.99])
def test_rows_for_load_are_the_fewest(distinct, load):
    rows = rows_for_load(distinct, load)
    assert expected_rows_hit(distinct, rows) / rows <= load * (1 + 1e-9) or rows == 2
    if rows > 3:
        assert expected_rows_hit(distinct, rows - 1) / (rows - 1) > load * (1 - 1e-9)


@pytest.mark.parametrize("load", [0, 1, -0.5, 1.5])
def test_loads_that_cannot_be(load):
    with pytest.raises(InputError, match="must be between 0 and 1"):
        rows_for_load(10, load)


def test_tables_for_a_load(tmp_path):
    stats = write_statistics(tmp_path / "stats.json")
    emitted = tmp_path / "out.yaml"
    words = ("--model", "gpt2", "--corpus", stats, "--load", "0.5", "--emit", emitted, "--json")
    code, out, _ = run("size", *words)
    assert code == 0
    payload = json.loads(out)
    corpus = payload["corpus"]
    assert (corpus["tokens"], corpus["sized_for_tokens"]) == (10**6, 10**6)
    assert corpus["wanted_load"] == 0.5
    rows = [rows_for_load(round(10 ** (6 * (0.5 + n / 10))), 0.5) for n in (2, 3)]
    assert payload["rows_per_head"] == rows
    assert payload["engram_table_size"] == [8 * row for row in rows]
    assert read_config(emitted).engram_table_size == payload["engram_table_size"]
    assert payload["k"] is None
    for order, primes in zip(corpus["orders"], payload["layers"][0]["primes"], strict=True):
        assert order["kind"] == "exact"
        assert order["rows"] == sum(primes)
        assert order["expected_load"] == order["expected_rows_hit"] / sum(primes)
        assert order["expected_load"] == pytest.approx(0.5, abs=1e-3)
        assert order["expected_load"] <= 0.5


def test_tables_for_a_longer_text(tmp_path):
    stats = write_statistics(tmp_path / "stats.json")
    payload = json.loads(
        run("size", "--model", "gpt2", "--corpus", stats, "--tokens", "1B", "--json")[1]
    )
    assert payload["corpus"]["sized_for_tokens"] == 10**9
    for order in payload["corpus"]["orders"]:
        truth = 10 ** (9 * (0.5 + order["order"] / 10))
        assert order["kind"] == "estimated"
        assert order["distinct_ngrams"] == pytest.approx(truth, rel=0.05)
        assert order["expected_load"] == pytest.approx(0.7, abs=1e-3)


def test_how_full_the_tables_of_a_budget_get(tmp_path):
    stats = write_statistics(tmp_path / "stats.json")
    plain = json.loads(run("size", "--model", "gpt2", "--budget", "40M", "--json")[1])
    payload = json.loads(
        run("size", "--model", "gpt2", "--budget", "40M", "--corpus", stats, "--json")[1]
    )
    corpus = payload.pop("corpus")
    advice = payload.pop("advice")
    assert plain.pop("corpus") is None
    assert plain.pop("advice")["crowding"] == []
    assert payload == plain
    for crowding, order in zip(advice["crowding"], corpus["orders"], strict=True):
        assert crowding["ngrams_per_row"] == order["distinct_ngrams"] * 8 / order["rows"]
    assert 0 < corpus["orders"][0]["expected_load"] < corpus["orders"][1]["expected_load"] < 1
    assert corpus["orders"][0]["rows"] == sum(payload["layers"][0]["primes"][0])
    shown = run("size", "--model", "gpt2", "--budget", "40M", "--corpus", stats)[1]
    assert "Filled by 1,000,000 tokens" in shown
    assert f"~{corpus['orders'][1]['expected_load']:.2%}" in shown


def test_equal_tables_are_those_of_the_fullest_order(tmp_path):
    stats = write_statistics(tmp_path / "stats.json", orders=(2, 3, 4))
    words = ("--corpus", stats, "--layout", "deepseek_v41", "--hidden-size", 64, "--layers", "1,2")
    payload = json.loads(run("size", *words, "--json")[1])
    assert payload["engram_vocab_size"] == 50_257
    assert len(set(payload["engram_table_size"])) == 1
    loads = [order["expected_load"] for order in payload["corpus"]["orders"]]
    assert loads[2] == pytest.approx(0.7, abs=1e-3)
    assert loads[0] < loads[1] < loads[2]


def test_statistics_of_something_else_are_refused(tmp_path):
    stats = write_statistics(tmp_path / "stats.json")
    for words, code, says in (
        (("--model", "qwen3-0.6b"), 5, "50,257 ids; the memory has 151,669"),
        (("--model", "gpt2", "--max-ngram-size", 4), 5, "also reads [4]"),
        (("--model", "gpt2", "--load", 2), 2, "'--load': The load must be between 0 and 1"),
        (("--model", "gpt2", "--whole-k"), 2, "--whole-k rounds what fits down"),
    ):
        found = run("size", *words, "--corpus", stats)
        assert (found[0], found[1]) == (code, "")
        assert says in found[2]
    assert run("size", "--model", "gpt2", "--tokens", "1B")[0] == 2
    with pytest.raises(MissingFileError, match=r"nothing.json does not exist"):
        read_statistics(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text('{"schema": "engram.size/1"}')
    with pytest.raises(InputError, match="not a result of engram hash"):
        read_statistics(tmp_path / "other.json")
    raw = read_statistics(write_statistics(tmp_path / "raw.json", compressed=None))
    with pytest.raises(MismatchError, match="n-grams of raw ids"):
        raw.check(load_template("gpt2"))
    short = read_statistics(write_statistics(tmp_path / "short.json", tokens=900))
    with pytest.raises(InputError, match="Hash a longer text"):
        short.ngrams(2, 10**9)


def test_starts_without_heavy_packages(tmp_path):
    stats = write_statistics(tmp_path / "stats.json")
    words = ["size", "--model", "gpt2", "--corpus", stats, "--tokens", "1B", "--json"]
    done, imported = imported_by(*words)
    done.ended()
    assert "engram.sizing.table_load" in imported
    assert not imported & {"torch", "transformers", "sympy", "numba", "tokenizers", "numpy", "rich"}


def test_a_text_in_the_place_of_its_statistics_is_not_to_be_overwritten(tmp_path):
    for name, wanted in (
        ("my text.txt", "engram hash '{}' --json > stats.json writes one."),
        ("stats.json", "engram hash TEXT --json > hash.json writes one."),
    ):
        text = tmp_path / name
        text.write_text("The quick brown fox.\n")
        with pytest.raises(InputError, match="not a result of engram hash") as refusal:
            read_statistics(text)
        assert refusal.value.hint == wanted.format(text)

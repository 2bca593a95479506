"""Growth curves equal counts of every beginning, predictions state what they miss; collisions."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from engram import growth as growth_module
from engram.corpus.counts import statistics as statistics_module
from engram.corpus.counts.collisions import order_rows
from engram.corpus.counts.distinct import DistinctWindows
from engram.corpus.counts.statistics import Statistics
from engram.growth import Growth, GrowthPoint, growth_lengths
from support.cli import run
from support.counted import (
    MEMORIES,
    add_windows,
    addresses_of,
    batch_of,
    brute_force,
    random_documents,
)
from support.paths import BPE


@pytest.mark.parametrize("name", MEMORIES)
def test_the_curve_equals_counts_of_every_beginning(monkeypatch, name):
    monkeypatch.setattr(growth_module, "FIRST_TOKENS", 50)
    monkeypatch.setattr(statistics_module, "_CHUNK", 97)
    addresses, documents = addresses_of(name), random_documents(11, 150)
    tokens = sum(map(len, documents))
    statistics = Statistics(addresses, threads=2)
    for start in range(0, len(documents), 37):
        statistics.add(batch_of(documents[start : start + 37]))
    lengths = [n for n in islice(growth_lengths(), 40) if n < tokens]
    assert lengths[:4] == [50, 71, 100, 141]
    for curve in statistics.growth():
        assert [point.tokens for point in curve.points] == [*lengths, tokens]
        for point in curve.points:
            assert point.distinct_ngrams == distinct_in(addresses, documents, point.tokens, curve)
            assert point.kind == "exact"
        assert Growth.from_dict(curve.to_dict()) == curve


def distinct_in(addresses, documents, tokens, curve):
    cut, left = [], tokens
    for document in documents:
        cut.append(document[:left])
        left -= len(cut[-1])
    return len(brute_force(addresses, cut)[1][curve.order])


def curve_of(function, tokens):
    lengths = [*(n for n in islice(growth_lengths(), 60) if n < tokens), tokens]
    return Growth(2, tuple(GrowthPoint(n, round(function(n)), "exact") for n in lengths))


def test_heaps_law_is_found_and_followed():
    curve = curve_of(lambda n: 3 * n**0.8, 10**7)
    assert curve.exponent == pytest.approx(0.8, abs=1e-3)
    guess = curve.predict(10**9)
    assert guess.distinct_ngrams == pytest.approx(3 * 10**7.2, rel=2e-3)
    assert guess.relative_error < 5e-3
    assert guess.checks >= 4


@pytest.mark.parametrize(
    ("truth", "most_miss"),
    [
        # The exponent shrinks from 0.95 to 0.66 over the text, as those of natural texts do.
        (lambda n: 1000 * math.exp(0.95 / 0.04 * -math.expm1(-0.04 * math.log(n / 1000))), 0.02),
        # No natural text bends as much.
        (lambda n: 5e6 * math.log1p(n / 2e6), 0.2),
    ],
)
def test_a_bending_curve_is_followed_better_than_by_a_line(truth, most_miss):
    curve = curve_of(truth, 10**7)
    guess = curve.predict(10**8)
    line = truth(10**7) * 10**curve.exponent
    miss = abs(guess.distinct_ngrams / truth(10**8) - 1)
    assert miss < most_miss
    assert 2.5 * miss < abs(line / truth(10**8) - 1)
    assert miss < guess.relative_error


def test_the_error_is_the_largest_miss_of_the_same_prediction_from_beginnings():
    rng = np.random.default_rng(1)
    bumps = np.exp(np.cumsum(rng.normal(0, 0.02, 60)))
    smooth = curve_of(lambda n: 3 * n**0.7, 2**20 * 1000)
    points = tuple(
        replace(point, distinct_ngrams=round(point.distinct_ngrams * bump))
        for point, bump in zip(smooth.points, bumps, strict=False)
    )
    curve = Growth(2, points)
    misses = []
    for end in range(len(points)):
        beginning = Growth(2, points[: end + 1])
        target = round(points[end].tokens * 4)
        later = [point for point in points if point.tokens >= target]
        if later and points[end].tokens >= 16 * 1000:
            truth = curve.predict(target).distinct_ngrams
            misses.append(abs(beginning.predict(target).distinct_ngrams / truth - 1))
    guess = curve.predict(points[-1].tokens * 4)
    assert guess.checks == 8
    assert guess.relative_error == pytest.approx(max(misses[-8:]), rel=1e-3)
    assert guess.relative_error > 0.01


def test_what_a_short_text_cannot_tell():
    assert curve_of(lambda n: n**0.8, 999).predict(10**6) is None
    assert curve_of(lambda n: n**0.8, 999).exponent is None
    assert Growth(2, ()).predict(5) is None
    guess = curve_of(lambda n: n**0.8, 20_000).predict(10**7)
    assert (guess.relative_error, guess.checks) == (None, 0)
    curve = curve_of(lambda n: n**0.8, 10**6)
    assert curve.predict(10) is None
    # Inside of the text the curve itself is the answer, and no text has more n-grams than tokens.
    assert curve.predict(10**6).distinct_ngrams == round(10**4.8)
    inside = curve.predict(50_000)
    assert inside.distinct_ngrams == pytest.approx(50_000**0.8, rel=1e-3)
    assert (inside.relative_error, inside.checks) == (None, 0)
    assert curve_of(lambda n: n, 10**6).predict(10**9).distinct_ngrams == 10**9


@pytest.mark.parametrize(("order", "vocab_size"), [(2, 447), (3, 32_962), (4, 99_092)])
def test_the_set_gives_back_its_windows_and_how_often_they_came(order, vocab_size):
    rng = np.random.default_rng(5)
    slots = rng.integers(0, vocab_size, (order, 6000)).astype(np.uint32)
    slots = slots[:, rng.integers(0, 6000, 20_000)]
    slots[:, :50] = vocab_size - 1
    windows = DistinctWindows(order, vocab_size)
    for start in range(0, slots.shape[1], 777):
        add_windows(windows, slots[:, start : start + 777])
        if start % 7 == 0:
            windows.count()
    # Multipliers that keep one id of a window, and drop the others.
    ids = [windows.mixes(one).tolist() for one in np.eye(order, dtype=np.uint64)]
    counts = [int(count) for _, counts in windows.sets() for count in counts]
    found = dict(zip(zip(*ids, strict=True), counts, strict=True))
    assert len(found) == len(counts)
    expected: dict[tuple[int, ...], int] = {}
    for window in map(tuple, slots.T.tolist()):
        expected[window] = expected.get(window, 0) + 1
    assert found == expected


@pytest.mark.parametrize("name", MEMORIES)
def test_collisions_equal_a_count_with_dictionaries(name):
    addresses, documents = addresses_of(name), random_documents(7, 60)
    statistics = Statistics(addresses, threads=2)
    statistics.add(batch_of(documents))
    for layer, found in zip(addresses.layers, statistics.layers(), strict=True):
        for order, primes, collisions in zip(
            addresses.orders, layer.primes, found.orders, strict=True
        ):
            times = occurrences_of(addresses, documents, order)
            rows = {
                window: tuple(math_xor(window, layer.multipliers) % prime for prime in primes)
                for window in times
            }
            owners = [{} for _ in primes]
            for window, places in rows.items():
                for head, row in enumerate(places):
                    owners[head].setdefault(row, set()).add(window)
            shared = {
                window: sum(len(owners[head][row]) > 1 for head, row in enumerate(places))
                for window, places in rows.items()
            }
            same = {}
            for places in rows.values():
                same[places] = same.get(places, 0) + 1
            total = sum(times.values())
            everywhere = [w for w, heads in shared.items() if heads == len(primes)]
            anywhere = [w for w, heads in shared.items() if heads]
            assert collisions.order == order
            assert collisions.kind == "exact"
            assert collisions.any_head == len(anywhere) / len(times)
            assert collisions.every_head == len(everywhere) / len(times)
            assert collisions.same_rows == sum(n for n in same.values() if n > 1) / len(times)
            assert collisions.occurrences_any_head == sum(times[w] for w in anywhere) / total
            assert collisions.occurrences_every_head == sum(times[w] for w in everywhere) / total


@pytest.mark.parametrize("primes", [(2, 3, 5), (2, 4001, 3), (101, 103)])
def test_collisions_in_heads_whose_rows_are_all_shared(primes):
    rng = np.random.default_rng(1)
    slots, multipliers = rng.integers(0, 1000, (2, 3000)).astype(np.uint32), (2**30 + 1, 2**31 + 3)
    windows = DistinctWindows(2, 1000)
    add_windows(windows, slots)
    distinct = {tuple(window) for window in slots.T.tolist()}
    rows = [tuple(math_xor(window, multipliers) % prime for prime in primes) for window in distinct]
    taken = [Counter(column) for column in zip(*rows, strict=True)]
    shared = [[taken[head][row] > 1 for head, row in enumerate(places)] for places in rows]
    found = order_rows(2, windows, multipliers, primes)
    assert found.hits == tuple(map(len, taken))
    assert found.collisions.any_head == sum(map(any, shared)) / len(distinct)
    assert found.collisions.every_head == sum(map(all, shared)) / len(distinct)
    same = sum(times for times in Counter(rows).values() if times > 1)
    assert found.collisions.same_rows == same / len(distinct)


def math_xor(window, multipliers):
    mix = 0
    for token, multiplier in zip(window, multipliers, strict=False):
        mix ^= token * multiplier
    return mix


def occurrences_of(addresses, documents, order):
    from engram.addressing.reference import look_back

    times: dict[tuple[int, ...], int] = {}
    for document in filter(None, documents):
        slots, _ = look_back(addresses, np.array([document]))
        for window in map(tuple, slots[0, :, :order].tolist()):
            times[window] = times.get(window, 0) + 1
    return times


def test_collisions_of_a_sample_are_estimated():
    rng = np.random.default_rng(0)
    slots = rng.integers(0, 30_000, (2, 40_000)).astype(np.uint32)
    multipliers, primes = (2**40 + 1, 2**39 + 3), (40_009, 40_013, 50_021, 50_023)
    whole, sample = DistinctWindows(2, 30_000), DistinctWindows(2, 30_000, most=9000)
    for windows in (whole, sample):
        add_windows(windows, slots)
    exact = order_rows(2, whole, multipliers, primes).collisions
    estimate = order_rows(2, sample, multipliers, primes).collisions
    assert (exact.kind, estimate.kind) == ("exact", "estimated")
    assert estimate.same_rows is None
    assert exact.same_rows == 0
    for key in ("any_head", "every_head", "occurrences_any_head", "occurrences_every_head"):
        assert getattr(estimate, key) == pytest.approx(getattr(exact, key), abs=0.03), key
    assert 0.1 < exact.every_head < exact.any_head < 0.99


def test_the_command_predicts_and_shows(tmp_path):
    words = np.random.default_rng(3).zipf(1.2, 30_000) % 400
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(" ".join(map(str, words[i : i + 40])) for i in range(0, 30_000, 40))
    )

    def shown_with(*more):
        return run("hash", text, "-t", BPE, *more).ended().stdout

    payload = json.loads(shown_with("--json"))
    assert [curve["order"] for curve in payload["growth"]] == [2, 3]
    for curve in payload["growth"]:
        assert curve["points"][-1]["tokens"] == payload["tokens"]
        heads = [head for head in payload["layers"][0]["heads"] if head["order"] == curve["order"]]
        assert curve["points"][-1]["distinct_ngrams"] == heads[0]["distinct_ngrams"]
        assert curve["prediction"]["tokens"] == 10 * payload["tokens"]
        assert curve["prediction"]["distinct_ngrams"] > heads[0]["distinct_ngrams"]
    for layer in payload["layers"]:
        assert [order["order"] for order in layer["orders"]] == [2, 3]
    other = json.loads(shown_with("--predict", "2M", "--json"))["growth"][0]["prediction"]
    assert other["tokens"] == 2_000_000
    shown = shown_with("--predict", "2M")
    assert f"~{other['distinct_ngrams']:,}" in shown
    assert "Other kinds of text grow differently." in shown
    assert "of the text:" in shown
    # Shorter than the text: read off its curve, with no error that nothing was checked for.
    curve = json.loads(shown_with("--predict", "2k", "--json"))["growth"][0]
    point = next(point for point in curve["points"] if point["tokens"] == 2000)
    assert curve["prediction"]["distinct_ngrams"] == point["distinct_ngrams"]
    assert curve["prediction"]["relative_error"] is None
    shown = shown_with("--predict", "2k")
    assert f"Distinct n-grams in the first 2,000 of {payload['tokens']:,} tokens" in shown
    assert f"~{point['distinct_ngrams']:,}" in shown
    assert "checks" not in shown
    shown = shown_with("--predict", "10B")
    assert "not checked: the text is too short" in shown
    assert "0.0% in" not in shown
    text.write_text("Too short.")
    assert "too short for a growth curve" in shown_with()
    assert json.loads(shown_with("--json"))["growth"][0]["prediction"] is None

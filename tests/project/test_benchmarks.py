"""Benchmarks: every file is on the page, ratios keep their promises, and the page says which."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture
def page(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import page

    monkeypatch.setattr(page, "KEPT", tmp_path)
    return page


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measured

    return measured


def test_every_benchmark_has_its_place_on_the_page(page):
    files = {path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py")}
    assert files == set(page.TITLES)
    assert set(page.ONLY_LONG) < files


def test_a_ratio_has_the_median_and_the_quartiles_of_its_rounds(measured):
    ratio = measured.Ratio("key", "what", "against", [5, 1, 4, 2, 3])
    assert ratio.quartiles == (2, 3, 4)
    assert measured.Ratio("key", "what", "against", [7]).quartiles == (7, 7, 7)
    assert measured.times_as_fast([4, 9], [2, 3]) == [2, 3]


@pytest.mark.parametrize(
    ("promise", "is_kept"),
    [
        ({}, None),
        ({"at_least": 3}, True),
        ({"at_least": 3.01}, False),
        ({"at_most": 3}, True),
        ({"at_most": 2.99}, False),
    ],
)
def test_a_promise_is_kept_by_the_median(measured, promise, is_kept):
    ratio = measured.Ratio("key", "what", "against", [1, 3, 100], **promise)
    assert ratio.is_kept is is_kept
    assert ratio.to_dict()["is_kept"] is is_kept


def test_the_page_quotes_what_was_measured_and_names_what_was_missed(page, measured, tmp_path):
    ratios = [
        measured.Ratio("a", "one thing", "a limit", [2.0, 2.5, 3.0], at_least=2, note="a note"),
        measured.Ratio("b", "another thing", "a | peer", [0.1], at_most=0.05, unit="GB"),
        measured.Ratio("c", "a third", "nothing promised", [1.0]),
    ]
    measured.finish(ratios, tmp_path / "hash.json")
    lines = page.page().splitlines()
    assert "**1 of 2 promises are kept; 1 missed:**" in lines
    assert "- another thing: 0.1 GB, promised at most 0.05 GB." in lines
    kept = "| 2.5 x [2.25, 2.75] | at least 2 x kept | one thing | a limit | a note |"
    assert kept in lines
    assert "| 0.1 GB | at most 0.05 GB **missed** | another thing | a \\| peer |  |" in lines
    assert "| 1 x |  | a third | nothing promised |  |" in lines
    absent = next(line for line in lines if line.startswith("Not measured"))
    assert "`bench_corpus.py`" in absent
    assert "hash" not in absent


def test_runs_take_turns_and_the_first_call_does_not_count(measured):
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = measured.interleaved(runs, rounds=2, calls=2)
    assert "".join(order) == "ab" + "aabb" * 2
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("bench_*.py")), ids=lambda path: path.stem)
def test_benchmarks_share_their_options(path):
    text = path.read_text(encoding="utf-8")
    assert "parser_of(__doc__)" in text
    assert "finish(" in text


def test_a_benchmark_writes_its_results_as_json(tmp_path):
    words = [sys.executable, BENCHMARKS / "bench_start.py", "--quick", "--rounds", "1"]
    subprocess.run([*words, "--json", tmp_path / "start.json"], check=True, capture_output=True)
    found = json.loads((tmp_path / "start.json").read_text())
    assert found["schema"] == "engram.bench/1"
    assert {row["key"] for row in found["results"]} == {"start-help", "start-size", "start-config"}
    assert all(row["median"] > 0.5 and len(row["rounds"]) == 1 for row in found["results"])

"""benchmarks/scale.py: its text, its lines, its measurements, and the page that quotes them."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
BASE = " ".join(
    f"word{chr(97 + i % 26)}{chr(97 + i % 7)} käse {'abcdefg'[i % 7] * 3}\n" for i in range(900)
)
# Of repetition 2 of BASE, with one word in ten replaced.
_DIGEST = "dde98ee73546602041e49c7e56553838f43f286a34f303190766fad7200c3748"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


def module(name):
    return importlib.import_module(name)


def line_of(table, first):
    """The row of a Markdown table that begins with a cell."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return line


@pytest.fixture(scope="module")
def content():
    return json.loads((BENCHMARKS / "scale.json").read_text())


@pytest.fixture(scope="module")
def points(content):
    return content["points"]


def test_the_page_says_what_was_measured(content):
    assert (REPOSITORY / "docs" / "scale.md").read_text() == module("scale_page").page_of(content)


def test_another_measurement_changes_the_page(content):
    slower = [
        {**it, "seconds": [7.77]} if it["series"] == "hash" else it for it in content["points"]
    ]
    assert "7.77 s" in module("scale_page").page_of({**content, "points": slower})


def test_a_slope_that_grows_is_called_missed(points):
    sizes = (10, 30, 100, 300, 1000)
    bent = [
        {"series": "hash", "size": size, "seconds": [1 + size * (1 if size < 300 else 2)]}
        for size in sizes
    ]
    lines = module("scale_page").text_lines(bent)
    assert "**missed**" in lines
    straight = [{**it, "seconds": [1 + it["size"]]} for it in bent]
    assert "kept" in module("scale_page").text_lines(straight)


def test_more_memory_than_the_bound_is_called_exceeded(points):
    bounds = module("scale_page").bounds
    heavy = [{**it, "held_bytes": 10**12} if it["series"] == "build" else it for it in points]
    assert "**exceeded**" in line_of(bounds(heavy, 2), "`corpus build`")
    light = [{**it, "held_bytes": 10**6} for it in points]
    assert "**exceeded**" not in bounds(light, 2)


def test_a_line_is_found_again():
    line = module("scale_line").line_of(
        [{"size": size, "seconds": 1.5 + 0.25 * size} for size in (4, 10, 1000)]
    )
    assert (line.fixed, line.slope) == pytest.approx((1.5, 0.25))


def test_the_text_grows_by_appending(tmp_path):
    text = module("scale_text").GrowingText(BASE.encode())
    short, long = tmp_path / "short.txt", tmp_path / "long.txt"
    size = 5 * len(BASE.encode())
    text.fit(short, size // 3)
    beginning = short.read_bytes()
    text.fit(short, size)
    text.fit(long, size)
    assert short.read_bytes() == long.read_bytes()
    assert 0 <= size - long.stat().st_size < 40
    text.fit(long, size // 3)
    assert long.read_bytes() == beginning
    long.read_bytes().decode()


def test_the_text_is_the_same_everywhere():
    text = module("scale_text").GrowingText(BASE.encode(), changed=0.1)
    found = hashlib.sha256(text.repetition(2).tobytes()).hexdigest()
    assert found == _DIGEST


def test_repetitions_bring_new_ngrams():
    text = module("scale_text").GrowingText(BASE.encode(), changed=0.04)
    seen: set[tuple[str, ...]] = set()
    fresh = []
    for number in range(4):
        words = bytes(text.repetition(number)).decode().split()
        ngrams = set(zip(words, words[1:], words[2:], strict=False))
        fresh.append(len(ngrams - seen))
        seen |= ngrams
    assert all(0.02 * 2700 < count < 0.15 * 2700 for count in fresh[1:])


def test_what_was_measured_is_not_measured_again(tmp_path):
    scale, series_of = module("scale"), module("scale_series")
    calls = []

    def measured(bench, size):
        calls.append(size)
        if size == 3:
            raise series_of.NoRoomError("none")
        if size == 4:
            raise module("scale_runs").FailedRunError("broken")
        return {"seconds": size}

    series = series_of.Series("ram", "rows", measured)
    given = SimpleNamespace(
        file=tmp_path / "scale.json", megabytes=[], rows=[1, 2], only=["ram"], again=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "SERIES", (series,))
        assert scale.measure(given, None)
        given.rows = [1, 2, 3, 5]
        assert scale.measure(given, None)
        assert calls == [1, 2, 3, 5]
        given.rows = [4]
        assert not scale.measure(given, None)
    found = json.loads(given.file.read_text())
    assert [it["size"] for it in found["points"]] == [1, 2, 5]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_memory_of_children_counts():
    child = "import time; held = bytearray(b'x') * 150_000_000; time.sleep(0.3)"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print({{}})"
    )
    found = module("scale_runs").run([sys.executable, "-c", parent])
    assert 150e6 < found.held_bytes < 250e6


def test_a_failed_process_is_told_with_its_error():
    runs = module("scale_runs")
    with pytest.raises(runs.FailedRunError, match="status 3: the reason"):
        runs.run(
            [sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"]
        )


def test_needs_follow_from_rates(points):
    paper = module("scale_paper")
    rates = replace(paper.rates_of(points, 2), token_bytes=4.0, build=1e-8, write=1e-9)
    hours = paper.needs(rates, paper.HOURS, lambda seconds: f"{seconds / 3600:.3f}")
    # 10^12 tokens x 4 bytes x 1e-8 s is 40,000 core-seconds, on 64 and 1,024 cores.
    assert "| 0.174 | 0.011 |" in line_of(hours, "tokenise the corpus (`corpus build`)")
    # 2 x 4 x 10^8 x 128 bytes at 1 GB/s are 102.4 s.
    assert "| 0.028 | 0.028 | - |" in line_of(hours, "write the tables (`attach`)")

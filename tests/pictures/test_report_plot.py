"""The picture of a report: bars of every place, their parts those of the answer."""

from __future__ import annotations

import pytest

from engram import ReportOptions, report
from engram.pictures import plot_report
from support.drawn import texts_outside

CASES = {
    "training": ("gpt2", "gpt2", {"mode": "training"}),
    "ranks": ("deepseek-v4.1-flash", None, {"tp": 4, "device_memory": 80 * 10**9}),
    "disk": (
        *("gpt2", "gpt2"),
        {
            **{"mode": "training", "optimizer": "rowwise-adagrad", "train": "memory"},
            **{"disk": 10**10, "host_memory": 2**33, "save_every": 10},
        },
    ),
    "base": ("qwen3-0.6b", None, {}),
    "host": ("gpt2", None, {"tp": 0}),
}


@pytest.fixture(params=CASES)
def answer(request):
    target, model, options = CASES[request.param]
    found = report(target, model, ReportOptions(**options))
    return {**found.to_dict(), "homes_by_part": found.homes_by_part()}


def test_parts_add_up_to_the_homes_of_the_report(answer):
    for home in answer["homes"]:
        for place in ("gpu", "cpu", "disk"):
            parts = [
                it["rank_bytes"]
                for it in answer["homes_by_part"]
                if (it["tables"], it["place"]) == (home["tables"], place)
            ]
            assert sum(parts) == home[f"rank_{place}_bytes"]


def test_bars_are_the_parts(answer):
    figure = plot_report(answer)
    (axes,) = figure.axes
    drawn = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    homes = answer["homes_by_part"]
    if answer["target_kind"] == "base":
        homes = [it for it in homes if it["tables"] == answer["tables"]]
    wanted = {}
    for it in homes:
        if it["rank_bytes"]:
            wanted.setdefault(it["part"], []).append(it["rank_bytes"])
    assert {part: sorted(filter(None, sizes)) for part, sizes in drawn.items()} == {
        part: sorted(sizes) for part, sizes in wanted.items()
    }
    # One part begins where the one before it ends.
    for bars in zip(*axes.containers, strict=True):
        ends = [bar.get_x() + bar.get_width() for bar in bars]
        assert [bar.get_x() for bar in bars] == [0, *ends[:-1]]
    assert texts_outside(figure) == []


def test_the_memory_that_there_is_is_written_and_marked():
    target, model, options = CASES["ranks"]
    found = report(target, model, ReportOptions(**options))
    answer = {**found.to_dict(), "homes_by_part": found.homes_by_part()}
    (axes,) = plot_report(answer).axes
    assert any("of 74.51 GiB" in text.get_text() for text in axes.texts)
    assert {line.get_xdata()[0] for line in axes.get_lines()} == {80 * 10**9}

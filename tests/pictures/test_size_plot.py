"""The picture of a size: its numbers are those of the answer, and those of exact counts."""

from __future__ import annotations

from engram import SizeOptions, size
from engram.pictures import plot_size
from engram.sizing.curve import size_curve
from support.drawn import column, lines, texts_outside


def answer_of(**options):
    sizing = size("gpt2", SizeOptions(**options))
    return {**sizing.to_dict(), "curve": [point.to_dict() for point in size_curve(sizing)]}


def test_numbers_of_the_answer_are_drawn():
    answer = answer_of(budget=40_000_000)
    curve = answer["curve"]
    params, slack = plot_size(answer).axes
    ks = column(curve, "k")
    drawn = lines(params)
    assert drawn["memory"] == (ks, column(curve, "total_params"))
    assert drawn["its tables"] == (ks, column(curve, "table_params"))
    assert set(drawn["budget 40M"][1]) == {40_000_000}
    (chosen,) = (point for point in curve if point["is_chosen"])
    (label,) = (name for name in drawn if name.startswith("chosen"))
    assert drawn[label] == ([chosen["k"]], [chosen["total_params"]])
    assert [*slack.get_lines()[0].get_ydata()] == column(curve, "slack_params")


def test_without_a_budget_there_is_no_slack():
    (axes,) = plot_size(answer_of(k=5.0)).axes
    assert not any(name.startswith("budget") for name in lines(axes))


def test_nothing_is_cut_off():
    for options in ({"budget": 40_000_000}, {"k": 1000.0}, {"rows": 16}):
        assert texts_outside(plot_size(answer_of(**options))) == []

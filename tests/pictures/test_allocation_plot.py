"""The picture of an allocation: the paper's points, and the splits of a mixture."""

from __future__ import annotations

import math

import pytest

from engram import allocate, allocate_mixture
from engram.pictures import plot_allocation
from engram.sizing.allocation import BEST_RHO, KNOWN, published_curves
from support.drawn import column, lines, texts_outside


def answer_of(found):
    return {**found.to_dict(), "curves": published_curves()}


def test_the_papers_points_are_those_that_it_states():
    curves = published_curves()
    stated = next(it["result"] for it in KNOWN if it["what"] == "loss at P_tot 9.9B")
    printed = [point for point in curves["loss"] if point["kind"] == "printed"]
    assert stated == "1.7248 at rho 1, 1.7109 at rho about 0.8"
    assert {(1.0, 1.7248), (0.8, 1.7109)} == {(point["rho"], point["loss"]) for point in printed}
    # The guide goes through the points, with the best at the bottom.
    guide = {point["rho"]: point["loss"] for point in curves["guide"]}
    for point in curves["loss"]:
        assert guide[point["rho"]] == pytest.approx(point["loss"], abs=1e-12)
    assert min(guide, key=guide.get) == 0.8
    first, last = curves["slots"]
    fall = (last["loss_change"] - first["loss_change"]) / math.log10(last["slots"] / first["slots"])
    assert fall == pytest.approx(-0.028)


def test_the_law_is_drawn_with_the_rho_that_was_asked_for():
    answer = answer_of(allocate(9_900_000_000, 993_000_000, rho=0.7))
    figure = plot_allocation(answer)
    law, slots = figure.axes
    drawn = lines(law)
    guide = answer["curves"]["guide"]
    assert drawn["guide for the eye"] == (column(guide, "rho"), column(guide, "loss"))
    assert drawn["printed"] == ([0.8, 1.0], [1.7109, 1.7248])
    assert drawn["stated: about as at rho 1"] == ([0.4], [1.7248])
    assert set(drawn["rho 0.7"][0]) == {0.7}
    points = answer["curves"]["slots"]
    assert [*slots.get_lines()[0].get_ydata()] == column(points, "loss_change")
    assert texts_outside(figure) == []


def test_the_best_band_and_the_total_are_those_of_the_curves():
    curves = published_curves()
    assert curves["best_rho"] == [float(rho) for rho in BEST_RHO] == [0.75, 0.8]
    curves |= {"best_rho": [0.5, 0.625], "total_params": 5_700_000_000}
    answer = allocate(9_900_000_000, 993_000_000).to_dict()
    law = plot_allocation({**answer, "curves": curves}).axes[0]
    (band,) = law.patches
    assert [*band.get_path().get_extents(band.get_patch_transform()).intervalx] == [0.5, 0.625]
    assert band.get_label() == "printed best: 0.50 to 0.62"
    assert "P_tot 5.7B" in law.get_title(loc="left")


def test_splits_of_a_mixture_are_drawn():
    answer = answer_of(allocate_mixture("qwen3-30b-a3b"))
    figure = plot_allocation(answer)
    drawn = lines(figure.axes[1])
    rhos = column(answer["points"], "rho")
    assert drawn["P_MoE: experts"] == (rhos, column(answer["points"], "P_MoE"))
    assert drawn["P_Engram: memory"] == (rhos, column(answer["points"], "P_Engram"))
    assert set(drawn["98 of 128 experts"][0]) == {answer["rho"]}
    assert texts_outside(figure) == []


def test_expert_counts_alone_have_a_rho_to_draw():
    answer = answer_of(allocate(experts_kept=55, experts_baseline=72, experts_active=6))
    assert "rho 0.7424" in lines(plot_allocation(answer).axes[0])

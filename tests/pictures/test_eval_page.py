"""The page of an evaluation: its verdict, its numbers, and as Chromium draws it."""

from __future__ import annotations

import re

import pytest

from engram.pictures.eval_page import eval_html
from support import readings
from support.chromium import needs_chromium
from support.contrast import lowest, lowest_mark
from support.markup import Markup

MINUS = "\N{MINUS SIGN}"
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\"'&"


def test_the_page_begins_with_the_verdict():
    assert readings.VERDICT in Markup(eval_html(readings.evaluation())).text


def test_every_number_of_the_result_is_on_the_page():
    result = readings.evaluation()
    command = "engram eval smollm2-memory --text foldoc.txt --html eval.html"
    text = Markup(eval_html(result, command=command)).text
    for run in (*result["runs"].values(), *result["training"]["runs"].values()):
        assert f"{run['nats_per_token']:.4f}" in text
        assert f"{run['perplexity']:,.3f}" in text
        assert f"{run['bits_per_byte']:.4f}" in text
    values = [it["gain"] for it in result["groups"]]
    for it in (*result["differences"], *result["training"]["differences"]):
        values += [it["nats"], it["low"], it["high"]]
    for value in values:
        assert f"{value:+.4f}".replace("-", MINUS) in text
    assert f"{result['training']['memorised_nats']:.4f} nats a token more are gained there" in text
    for it in result["layers"]:
        assert f"layer {it['layer_id']}" in text
        assert all(f"{gate:.3f}" in text for gate in (it["gate_mean"], *it["gate_quartiles"]))
        numbers = (it["write_norm"], it["row_rms"], it["row_norm_over_start"])
        assert all(f"{number:.4g}" in text for number in numbers if number is not None)
    for it in result["positions"]:
        assert it["first"] == 1 or f"{it['first']:,} to {it['last']:,}" in text
        assert all(f"{nats:.4f}" in text for nats in it["runs"].values())
    for run in result["needles"]["runs"].values():
        assert f"{run['exact']:.1%}" in text
    assert result["notes"][0] in text
    assert command in text


def test_a_gain_that_is_smaller_on_the_text_of_the_training_is_said():
    result = readings.evaluation()
    result["training"]["memorised_nats"] = -0.0125
    assert "0.0125 nats a token fewer are gained there" in Markup(eval_html(result)).text


def test_runs_are_called_by_their_names():
    text = Markup(eval_html(readings.evaluation(controls=("./smollm2-135m",)))).text
    assert "memory on minus ./smollm2-135m" in text
    assert "control" not in text


def test_charts_are_drawn_and_described():
    page = eval_html(readings.evaluation())
    found = Markup(page)
    assert found.scripts == []
    charts = re.findall(r'<svg class="(\w+)" role="img"[^>]*><title>[^<]+</title><desc>', page)
    assert charts == ["forest", "forest", "bars", "bars", "bars", "curves"]
    dots = re.findall(r'<circle class="dot" cx="([\d.]+)%"', page.split("</svg>")[0])
    values = [it["nats"] for it in readings.evaluation()["differences"]]
    # Dots stand where their values are: in the same order, at the same ratios.
    left = [float(it) for it in dots]
    ratio = (left[1] - left[0]) / (values[1] - values[0])
    for place, value in zip(left, values, strict=True):
        assert place == pytest.approx(left[0] + ratio * (value - values[0]), abs=0.05)


def test_what_was_not_measured_is_left_out():
    less = {"training": None, "needles": None, "groups": [], "positions": [], "layers": []}
    found = Markup(eval_html({**readings.evaluation(controls=()), **less, "notes": []}))
    assert found.tags.count("h2") == 1
    assert "Needles" not in found.text
    alone = {**less, "notes": [], "differences": [], "runs": {"base": readings._run(2.0)}}
    Markup(eval_html({**readings.evaluation(), **alone}))


def test_hostile_names_stay_text():
    result = {**readings.evaluation(controls=(HOSTILE,)), "target": HOSTILE, "text": HOSTILE}
    found = Markup(eval_html(result))
    assert {"script", "img"}.isdisjoint(found.tags)
    assert "<img src=x onerror=alert(1)>⟨U+202E⟩" in found.text


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_can_be_read_on_any_screen(show, scheme, width):
    tab = show(eval_html(readings.evaluation(controls=("random-rows", HOSTILE))), width, scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    value, text, count = lowest(tab)
    assert value >= 4.5, text
    weakest, kinds = lowest_mark(tab)
    assert weakest >= 3
    assert kinds == {"bar", "dot", "curve"}
    assert count > 150
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the window scrolls in a region that the keyboard reaches and that is named.
    wide = tab.evaluate(
        "[...document.querySelectorAll('.table')].filter(it => it.scrollWidth > it.clientWidth)"
        ".map(it => [it.tabIndex, it.getAttribute('role'), !!it.getAttribute('aria-label')])"
    )
    assert all(it == [0, "region", True] for it in wide)
    assert wide or width > 400
    # No text of a chart is cut off or runs out of the window.
    ends = tab.evaluate(
        "[...document.querySelectorAll('svg text')].map(it => it.getBoundingClientRect())"
        ".map(it => [it.left, it.right])"
    )
    assert min(left for left, _ in ends) >= 0
    assert max(right for _, right in ends) <= width

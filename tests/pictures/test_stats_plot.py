"""The picture of statistics of a text: heads, growth with its prediction, caches."""

from __future__ import annotations

import pytest

from engram import HashOptions, hash_text
from engram.pictures import plot_statistics
from support.drawn import column, lines, texts_outside
from support.paths import BPE


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    words = [f"river {n % 97} stone {n * n % 89} mill" for n in range(6000)]
    text.write_text("\n\n".join(" ".join(words[at : at + 9]) for at in range(0, 6000, 9)))
    return hash_text(text, tokenizer=BPE, options=HashOptions(cache_curve=True)).to_dict()


def test_heads_are_drawn_by_layer(answer):
    load, collisions = plot_statistics(answer).axes[:2]
    heads = [layer["heads"] for layer in answer["layers"]]
    for axes, key in ((load, "load"), (collisions, "collisions")):
        drawn = [value for line in axes.get_lines() for value in line.get_ydata()]
        # The lines between orders go from 0 to 1 of the axes.
        marks = [line for line in axes.get_lines() if line.get_marker() == "None"]
        assert len(marks) == 1
        assert sorted([*column(heads[0], key), *column(heads[1], key), 0, 1]) == sorted(drawn)
    assert set(lines(load)) == {"layer 1", "layer 6"}


def test_growth_has_its_prediction_and_error(answer):
    axes = plot_statistics(answer).axes[2]
    drawn = lines(axes)
    for curve in answer["growth"]:
        then = curve["prediction"]
        (label,) = (name for name in drawn if name.startswith(f"order {curve['order']}, then"))
        points = curve["points"]
        assert drawn[label] == (column(points, "tokens"), column(points, "distinct_ngrams"))
        ends = [[*line.get_xydata()[-1]] for line in axes.get_lines()]
        assert [then["tokens"], then["distinct_ngrams"]] in ends
        if then["relative_error"] is not None:
            assert f"± {then['relative_error']:.1%}" in label
    assert len(axes.collections) == sum(
        curve["prediction"]["relative_error"] is not None for curve in answer["growth"]
    )


def test_an_error_is_drawn_from_below_to_above(answer):
    curves = [
        {**curve, "prediction": {**curve["prediction"], "relative_error": 0.25, "checks": 1}}
        for curve in answer["growth"]
    ]
    axes = plot_statistics({**answer, "growth": curves}).axes[2]
    for curve, bar in zip(curves, axes.collections, strict=True):
        ((_, low), (_, high)) = bar.get_segments()[0]
        distinct = curve["prediction"]["distinct_ngrams"]
        assert (low, high) == pytest.approx((0.75 * distinct, 1.25 * distinct))


def test_caches_are_drawn_by_layer(answer):
    axes = plot_statistics(answer).axes[3]
    drawn = lines(axes)
    for layer in answer["cache"]["layers"]:
        for key, name in (("lru_warm", "LRU"), ("static_warm", "fixed")):
            points = layer["points"]
            label = f"layer {layer['layer_id']}, {name}"
            assert drawn[label] == (column(points, "rows"), column(points, key))


def test_short_texts_have_fewer_pictures(answer):
    assert texts_outside(plot_statistics(answer)) == []
    growth = [{**curve, "prediction": None, "exponent": None} for curve in answer["growth"]]
    figure = plot_statistics({**answer, "cache": None, "growth": growth})
    assert len(figure.axes) == 3
    assert set(lines(figure.axes[2])) == {"order 2", "order 3"}
    assert texts_outside(figure) == []

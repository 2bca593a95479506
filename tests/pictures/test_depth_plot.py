"""The picture of a depth: its lines and cells are the numbers of the answer."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from engram.pictures import plot_depth
from engram.pictures.style import save_figure
from support.drawn import lines, texts_outside


def answer_of(layers=12, runs=("on", "base", "control")):
    numbers = np.random.default_rng(0)
    matrix = np.clip(1 - np.abs(np.subtract.outer(range(layers), range(layers))) / 6, 0, 1)
    return {
        "memory_layers": [1, 4],
        "lens": {
            run: [*(numbers.random() * (layers - 1 - it) for it in range(layers - 1)), 0.0]
            for run in runs
        },
        "cka": [{"a": run, "b": "base", "matrix": (matrix * 0.9).tolist()} for run in runs],
        "effective_depth": {
            run: [*numbers.uniform(0, layers - 1, layers - 1), None] for run in runs
        },
    }


def test_numbers_of_the_answer_are_drawn():
    answer = answer_of()
    figure = plot_depth(answer)
    lens, on, control = (axes for axes in figure.axes if axes.get_title(loc="left"))
    drawn = lines(lens)
    for run, nats in answer["lens"].items():
        assert drawn[run] == ([*range(12)], nats)
    memory = [line.get_xdata()[0] for line in lens.get_lines()[len(answer["lens"]) :]]
    assert memory == [1, 4]
    for axes, run in ((on, "on"), (control, "control")):
        (image,) = axes.get_images()
        matrix = next(it["matrix"] for it in answer["cka"] if it["a"] == run)
        np.testing.assert_allclose(image.get_array(), matrix)
        depths = lines(axes)
        for label, name in (("effective depth", run), ("that of the base", "base")):
            (found,) = (points for key, points in depths.items() if key.endswith(label))
            np.testing.assert_allclose(found[1][:-1], answer["effective_depth"][name][:-1])
            assert np.isnan(found[1][-1])  # a layer that resembles nothing


def test_axes_state_what_they_show():
    figure = plot_depth(answer_of(runs=("on", "base")))
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels[0] == ("layer", "KL from the run's last\nprediction (nats a token)")
    assert labels[1] == ("layer of on", "layer of the base")
    assert ("", "linear CKA") in labels


def test_runs_are_shown_under_any_name(tmp_path):
    figure = plot_depth(answer_of(runs=("base", "_run", "m\udcff\x1b")))
    lens, *_ = figure.axes
    shown = [text.get_text() for text in lens.get_legend().get_texts()]
    assert shown == ["base", " _run", "m⟨U+DCFF⟩⟨U+001B⟩", "reads the memory"]
    save_figure(figure, tmp_path / "depth.svg", "A test.")
    ElementTree.parse(tmp_path / "depth.svg")


@pytest.mark.parametrize("layers", [2, 12, 61])
def test_nothing_is_cut_off(layers):
    assert texts_outside(plot_depth(answer_of(layers))) == []

"""The picture of gates: every gate of the answer is in its map, and in its histogram."""

from __future__ import annotations

import numpy as np
import pytest

from engram.pictures.gates_plot import plot_gates
from engram.pictures.style import save_figure
from engram.pictures.unseen import seen
from support import readings
from support.drawn import ink, lines, texts_outside


def gates_of(answer):
    """The gates ``[layers x streams, tokens]``."""
    return np.array([[gate["gate"] for gate in it["gates"]] for it in answer["tokens"]]).T


def test_every_gate_is_drawn():
    answer = readings.gates()
    mapped, shares, _ = plot_gates(answer).axes
    (image,) = mapped.get_images()
    assert np.array_equal(image.get_array(), gates_of(answer))
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    labels = [label.get_text() for label in mapped.get_yticklabels()]
    assert labels == [f"{layer}.{stream}" for layer in (1, 6) for stream in range(4)]
    drawn = lines(shares)
    assert [*drawn] == labels
    for row, (_, heights) in zip(gates_of(answer), drawn.values(), strict=True):
        assert sum(heights) == pytest.approx(1)
        assert np.allclose(heights, np.histogram(row, np.linspace(0, 1, 21))[0] / len(row))


def test_the_map_can_be_read_in_greyscale():
    (image,) = plot_gates(readings.gates()).axes[0].get_images()
    colors = image.cmap(np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(colors @ [0.2126, 0.7152, 0.0722]) < 0).all()


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("texts", [["a"], [*readings.HOSTILE], [f"w{i}" for i in range(2000)]])
@pytest.mark.parametrize("streams", [1, 4])
def test_any_text_can_be_drawn(texts, streams, tmp_path):
    answer = readings.gates(texts, streams=streams)
    figure = plot_gates(answer)
    assert texts_outside(figure) == []
    save_figure(figure, tmp_path / "gates.png", "Made-up gates.")
    assert ink(tmp_path / "gates.png") > 0.02
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (len(shown) == len(texts)) == (len(texts) <= 60)
    assert all(text == seen(text) and len(text) <= 14 for text in shown)

"""Pictures as tests read them: numbers of lines, ink of files, and texts that are cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Return the points of every line of axes that has a label, by its label."""
    return {
        line.get_label(): ([*map(float, line.get_xdata())], [*map(float, line.get_ydata())])
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def column(records: list[dict[str, Any]], key: str) -> list[float]:
    """Return one number of each record."""
    return [float(record[key]) for record in records]


def ink(path: Path) -> float:
    """Return the share of a PNG's pixels that are not white."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    return float((np.abs(pixels - 1) > 0.1).any(axis=-1).mean())


def texts_outside(figure: Any) -> list[str]:
    """Return the texts of axes that do not lie on the figure as a whole."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.size
    found = []
    for axes in figure.axes:
        for text in (*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label):
            box = text.get_window_extent(renderer)
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            if text.get_text() and not inside:
                found.append(text.get_text())
    return found

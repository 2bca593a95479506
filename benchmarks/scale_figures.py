"""Draws the figures of docs/scale.md from what `scale.py` measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scale_line import TEXTS, Point, amount_of, line_of, of_series, seconds_of

from engram.pictures.style import (
    PAGE,
    caption,
    line_style,
    new_figure,
    save_figure,
    show_bytes,
    show_counts,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By series: its label, and what one measurement makes many of.
LOOK_UPS = {
    "disk": ("look-up, disk, cold", "look_ups"),
    "file-step": ("training, file", "look_ups"),
    "step": ("training, memory", "look_ups"),
    "ram": ("look-up, memory", "look_ups"),
    "kernel": ("hash of a token", "tokens"),
}
_COMMAND = ("python", "benchmarks/scale_page.py")


def draw_all(points: list[Point], folder: Path) -> None:
    """Write every figure.

    Args:
        points: The measurements.
        folder: docs/figures.
    """
    for name, draw in (("scale-texts.png", texts), ("scale-tables.png", tables)):
        source = "Measured by benchmarks/scale.py, in benchmarks/scale.json."
        save_figure(draw(points), folder / name, caption(source, _COMMAND), overwrite=True)


@styled()
def texts(points: list[Point]) -> Figure:
    """Draw seconds and memory against the length of the text."""
    figure, (seconds, memory) = new_figure(1, 2, width=PAGE, height=2.6)
    for number, (name, command) in enumerate(TEXTS.items()):
        label = command.removeprefix("engram ")
        found = of_series(points, name)
        sizes = [amount_of(it) for it in found]
        style = line_style(number)
        if len(found) > 1:
            line = line_of(found)
            fitted = [line.fixed + line.slope * size for size in sizes]
            seconds.plot(sizes, fitted, color=style["color"], linewidth=0.6)
        seconds.plot(
            sizes, [seconds_of(it) for it in found], label=label, **style | {"linestyle": ""}
        )
        memory.plot(sizes, [it["held_bytes"] for it in found], label=label, **style)
    seconds.set_title("Time, and a line: fixed cost + slope x size")
    seconds.set_yscale("log")
    seconds.set_ylabel("seconds")
    show_counts(seconds.yaxis)
    memory.set_title("Memory of all processes together")
    for axes in (seconds, memory):
        _sizes(axes, "bytes of text")
    seconds.legend(loc="upper left")
    _with_legend(memory)
    return figure


@styled()
def tables(points: list[Point]) -> Figure:
    """Draw what a look-up and a step take, and the memory of commands, against rows."""
    figure, (seconds, memory) = new_figure(1, 2, width=PAGE, height=2.6)
    for number, (name, (label, many)) in enumerate(LOOK_UPS.items()):
        found = of_series(points, name)
        each = [1e9 * seconds_of(it) / it[many] for it in found]
        seconds.plot([it["size"] for it in found], each, label=label, **line_style(number))
    seconds.set_title("Time of one look-up, row trained or token hashed")
    seconds.set_yscale("log")
    seconds.set_ylabel("nanoseconds")
    show_counts(seconds.yaxis)
    seconds.set_ylim(top=30 * seconds.get_ylim()[1])
    for number, (name, label) in enumerate(
        (("hash-table", "engram hash --stats, 10 MB"), ("attach", "engram attach"))
    ):
        found = of_series(points, name)
        held = [it["held_bytes"] for it in found]
        memory.plot([it["size"] for it in found], held, label=label, **line_style(number))
    memory.set_title("Memory of commands")
    for axes in (seconds, memory):
        _sizes(axes, "rows of the table")
    seconds.legend(loc="upper left", ncols=2)
    _with_legend(memory)
    return figure


def _sizes(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    show_counts(axes.xaxis)


def _with_legend(axes: Axes) -> None:
    """Put the legend above lines of memory, which begin at 0."""
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])
    show_bytes(axes.yaxis)
    axes.legend(loc="upper left")

"""Charts as inline SVG without scripts.

Widths are in per cent, so that text keeps its size on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from engram.pictures.page import Html, escaped, minus, signed

_ROW = 44  # pixels of a row of a forest plot: its name, and its interval below
_BAR = 40
_HEIGHT = 190  # of curves
_MOST_STEPS = 12  # that are named below curves
_DASHES = 6  # styles of curves in the stylesheet


@dataclass(frozen=True)
class Interval:
    """A value with its interval, a row of a forest plot.

    Attributes:
        name: What it is.
        value: The value.
        low: Lower end of the interval.
        high: Upper end.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        name: What it is.
        value: The value.
        written: The value as people read it.
        limit: What the value may be at most, or None.
    """

    name: str
    value: float
    written: str
    limit: float | None = None


def figure(chart: Html, caption: str, beside: Html) -> Html:
    """Return a chart with a sentence below it, and beside it a table of the same numbers."""
    told = f"<figcaption>{escaped(caption)}</figcaption>"
    return Html(f'<div class="pair"><figure>{chart}{told}</figure>{beside}</div>')


def histogram(values: Sequence[float], low: float, high: float, title: str, bins: int = 20) -> Html:
    """Return a small histogram, for a cell of a table.

    Args:
        values: The values; those outside are counted in the outermost bins.
        low: Lower end of the first bin.
        high: Upper end of the last bin.
        title: What it shows.
        bins: Bins.
    """
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    most = max(max(counts), 1)
    bars = "".join(
        f'<rect class="bar" x="{6 * at}" y="{_round(24 - 24 * count / most)}" width="5" '
        f'height="{_round(24 * count / most)}"/>'
        for at, count in enumerate(counts)
        if count
    )
    width = 6 * bins
    return Html(
        f'<svg class="small" role="img" width="{width}" height="25" viewBox="0 0 {width} 25">'
        f'<title>{escaped(title)}</title>{bars}<path class="grid" d="M0 24.5H{width}"/></svg>'
    )


def forest(rows: Sequence[Interval], title: str, unit: str) -> Html:
    """Return dots with intervals, one row each, and a line at zero.

    Args:
        rows: The values.
        title: What it shows.
        unit: Of the axis.
    """
    ends = [0.0, *(end for row in rows for end in (row.low, row.high, row.value))]
    axis = _Axis(min(ends), max(ends), widen=True)
    height = _ROW * len(rows) + 40
    told = "; ".join(
        f"{it.name} {signed(it.value, 4)}, {signed(it.low, 4)} to {signed(it.high, 4)}"
        for it in rows
    )
    parts = [
        *axis.grid(height - 36),
        f'<line class="zero" {axis.xs(0, 0)} y1="0" y2="{height - 36}"/>',
    ]
    for at, row in enumerate(rows):
        y = _ROW * at + 30
        parts += [
            f'<text x="0" y="{y - 12}">{escaped(_cut(row.name))}</text>',
            f'<line class="whisker" {axis.xs(row.low, row.high)} y1="{y}" y2="{y}"/>',
            f'<circle class="dot" cx="{axis.at(row.value)}%" cy="{y}" r="5"/>',
        ]
    return _svg("forest", title, told, height, [*parts, *axis.labels(height - 20, unit)])


def bars(rows: Sequence[Bar], title: str) -> Html:
    """Return one bar a row, from zero, with its name above it, in a frame as long as its limit.

    Args:
        rows: The values.
        title: What it shows.
    """
    ends = [0.0, *(end for row in rows for end in (row.value, row.limit or 0.0))]
    axis = _Axis(min(ends), max(ends))
    height = _BAR * len(rows) + 6
    parts = []
    for at, row in enumerate(rows):
        y = _BAR * at
        parts += [
            f'<text x="0" y="{y + 13}">{escaped(_cut(row.name))}</text>',
            f'<text class="soft" x="100%" y="{y + 13}" text-anchor="end">{escaped(row.written)}'
            "</text>",
            *([axis.bar("limit", row.limit, y + 19)] if row.limit is not None else []),
            axis.bar("bar", row.value, y + 19),
            f'<line class="whisker" {axis.xs(0, 0)} y1="{y + 17}" y2="{y + 33}"/>',
        ]
    told = "; ".join(f"{row.name} {row.written}" for row in rows)
    return _svg("bars", title, told, height, parts)


def curves(
    series: Mapping[str, Sequence[float]], steps: Sequence[str], title: str, across: str, unit: str
) -> Html:
    """Return curves over the same steps, each named in a legend by its dash and colour.

    Args:
        series: Values of each curve at the steps, by its name.
        steps: Names of the steps, short ones.
        title: What it shows.
        across: Name of the horizontal axis.
        unit: Unit of the values.
    """
    values = [value for line in series.values() for value in line]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1) * 0.06
    wide, up = _Axis(0, len(steps) - 1, left=10.0, right=98.0), _Axis(low - room, high + room)
    top = 32 + 16 * len(series)
    bottom = top + _HEIGHT

    def y_at(value: float) -> float:
        return _round(bottom - (value - up.low) / (up.high - up.low) * _HEIGHT)

    parts = [
        f'<line class="grid" x1="10%" x2="98%" y1="{y_at(tick)}" y2="{y_at(tick)}"/>'
        f'<text class="soft" x="8%" y="{y_at(tick) + 4}" text-anchor="end">{_written(tick)}</text>'
        for tick in up.ticks()
    ]
    parts.append(f'<text class="soft" x="0" y="{top - 8}">{escaped(unit)}</text>')
    for at, (name, line) in enumerate(series.items()):
        points = [(wide.at(step), y_at(value)) for step, value in enumerate(line)]
        drawn = "".join(
            f'<line class="curve" x1="{a[0]}%" x2="{b[0]}%" y1="{a[1]}" y2="{b[1]}"/>'
            for a, b in pairwise(points)
        ) + "".join(f'<circle class="dot" cx="{x}%" cy="{y}" r="4"/>' for x, y in points)
        y = 10 + 16 * at
        parts.append(
            f'<g class="s{at % _DASHES}"><line class="curve" x1="10%" x2="18%" y1="{y}" y2="{y}"/>'
            f'<text x="20%" y="{y + 4}">{escaped(_cut(name))}</text>{drawn}</g>'
        )
    every = math.ceil(len(steps) / _MOST_STEPS)
    parts += [
        f'<text class="soft" x="{wide.at(at)}%" y="{bottom + 18}" text-anchor="middle">'
        f"{escaped(step)}</text>"
        for at, step in enumerate(steps)
        if at % every == 0
    ]
    told = "; ".join(
        f"{name}: " + ", ".join(f"{y:.4g} at {step}" for step, y in zip(steps, line, strict=True))
        for name, line in series.items()
    )
    parts.append(wide.name(bottom + 35, across))
    return _svg("curves", f"{title}, {unit}", told, bottom + 36, parts)


class _Axis:
    """A range of values across the width of a chart, in per cent."""

    def __init__(
        self,
        low: float,
        high: float,
        *,
        widen: bool = False,
        left: float = 0.0,
        right: float = 100.0,
    ) -> None:
        room = (high - low) * 0.04 if widen else 0.0
        self.low, self.high = low - room, high + room
        if self.high <= self.low:
            self.high = self.low + (abs(self.low) or 1.0)
        self._left, self._right = left, right

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _round(self._left + (self._right - self._left) * share)

    def bar(self, kind: str, value: float, y: int) -> str:
        left, right = self.at(min(0.0, value)), self.at(max(0.0, value))
        return (
            f'<rect class="{kind}" x="{left}%" y="{y}" width="{_round(right - left)}%" '
            'height="12" rx="1"/>'
        )

    def xs(self, a: float, b: float) -> str:
        return f'x1="{self.at(a)}%" x2="{self.at(b)}%"'

    def ticks(self) -> list[float]:
        """Three to six round numbers inside the range."""
        size = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        step = next(it * size for it in (5, 2, 1) if (self.high - self.low) / (it * size) >= 3)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{tick * step:.6g}") for tick in range(first, last + 1)]

    def grid(self, height: int) -> Iterable[str]:
        for tick in self.ticks():
            yield f'<line class="grid" {self.xs(tick, tick)} y1="0" y2="{height}"/>'

    def labels(self, y: int, unit: str) -> Iterable[str]:
        for tick in self.ticks():
            place = self.at(tick)
            anchor = "start" if place < 4 else "end" if place > 96 else "middle"
            yield (
                f'<text class="soft" x="{place}%" y="{y}" text-anchor="{anchor}">'
                f"{_written(tick)}</text>"
            )
        yield self.name(y + 17, unit)

    def name(self, y: int, name: str) -> str:
        middle = (self._left + self._right) / 2
        return (
            f'<text class="soft" x="{middle}%" y="{y}" text-anchor="middle">{escaped(name)}</text>'
        )


def _svg(name: str, title: str, told: str, height: int, parts: Iterable[str]) -> Html:
    return Html(
        f'<svg class="{name}" role="img" height="{height}" '
        f'aria-label="{escaped(title)}. {escaped(told)}">'
        f"<title>{escaped(title)}</title><desc>{escaped(told)}</desc>{''.join(parts)}</svg>"
    )


def _written(tick: float) -> str:
    return minus(f"{tick:g}")


def _round(value: float) -> float:
    return round(value, 2)


def _cut(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

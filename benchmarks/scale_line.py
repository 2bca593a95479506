"""Lines through measurements of `scale.py`: fixed costs, slopes, and slopes at both ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Point = dict[str, Any]
# Series of texts, and the commands that they time.
TEXTS = {
    "hash": "engram hash TEXT --stats",
    "build": "engram corpus build TEXT",
    "hash-corpus": "engram hash CORPUS --stats",
    "hash-ray": "engram hash TEXT --stats --engine ray",
}
_END = 3


@dataclass(frozen=True)
class Line:
    """Seconds as ``fixed + slope * size``.

    Attributes:
        fixed: Seconds at size 0.
        slope: Seconds for each unit of size.
    """

    fixed: float
    slope: float


def of_series(points: Iterable[Point], name: str) -> list[Point]:
    """Return the measurements of a series, by increasing size."""
    return sorted((it for it in points if it["series"] == name), key=lambda it: int(it["size"]))


def seconds_of(point: Point) -> float:
    """Return the seconds of a measurement: the median of its runs."""
    seconds = point["seconds"]
    return median(seconds) if isinstance(seconds, list) else float(seconds)


def amount_of(point: Point) -> int:
    """Return the size as it was measured: bytes of the text, or rows."""
    return int(point["bytes"] if "bytes" in point else point["size"])


def line_of(points: Sequence[Point]) -> Line:
    """Fit a line by least squares of the relative misses, so that all sizes count alike.

    Args:
        points: At least two measurements of different sizes.
    """
    pairs = [(amount_of(it), seconds_of(it)) for it in points]
    # Weighted least squares of y = a + b x with weights 1 / y^2.
    w, wx, wy, wxx, wxy = (
        sum(x**p * y**q / y**2 for x, y in pairs)
        for p, q in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1))
    )
    slope = (w * wxy - wx * wy) / (w * wxx - wx * wx)
    return Line((wy - slope * wx) / w, slope)


def ends_of(points: Sequence[Point]) -> tuple[Line, Line] | None:
    """Return the lines of the three smallest and of the three largest; None without both."""
    if len(points) <= _END:
        return None
    return line_of(points[:_END]), line_of(points[-_END:])


def slope_ratio(points: Sequence[Point]) -> float | None:
    """Return the slope at the largest sizes over that at the smallest; None of too few sizes."""
    found = ends_of(points)
    return None if found is None else found[1].slope / found[0].slope

"""The picture of `engram report`: a rank's bytes by place, stacked by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import COLORS, bar_style, new_figure, show_bytes, styled
from engram.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By place: the key of its size in the answer.
_SIZES = {"gpu": "device_memory_bytes", "cpu": "host_memory_bytes", "disk": "disk_bytes"}
_LINE = 0.2  # inches of a bar, or of the line above a group of bars
# Room for the numbers at the ends of bars, as a part of the longest.
_ROOM = 0.75


@styled()
def plot_report(answer: Mapping[str, Any]) -> Figure:
    """Draw the bytes of each place, for tables on the GPU, in host memory and on disk.

    Args:
        answer: What ``engram report --plot --json`` prints: `Report.to_dict` with
            `Report.homes_by_part` as ``homes_by_part``.
    """
    homes, has_memory = answer["homes_by_part"], answer["target_kind"] != "base"
    if not has_memory:  # there are no tables to be in another place
        homes = [it for it in homes if it["tables"] == answer["tables"]]
    found = {(it["tables"], it["place"]): 0 for it in homes}
    bars = [(home, place) for home in _SIZES for place in _SIZES if (home, place) in found]
    groups = list(dict.fromkeys(home for home, _ in bars))
    parts = list(dict.fromkeys(it["part"] for it in homes))
    rows = [number + groups.index(home) for number, (home, _) in enumerate(bars)]
    height = 0.85 + 0.13 * -(-len(parts) // 2) + _LINE * (len(bars) + len(groups))
    figure, (axes,) = new_figure(height=height)
    ends = [0] * len(bars)
    for number, part in enumerate(parts):
        sizes = _sizes(homes, part, bars)
        axes.barh(rows, sizes, left=ends, height=0.75, label=part, **bar_style(number))
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    longest = max(1, *ends)
    for (_, place), row, end in zip(bars, rows, ends, strict=True):
        _write_total(axes, row, end, _capacity(answer, place), (1 + _ROOM) * longest)
    for home in groups if has_memory else ():
        first = rows[[tables for tables, _ in bars].index(home)]
        axes.text(0, first - 0.55, f"tables on the {home}", fontweight="bold", fontsize=6.5)
    axes.set_yticks(rows, [place for _, place in bars])
    axes.set_ylim(max(rows) + 0.6, -1.3 if has_memory else -0.6)
    axes.set_xlim(0, (1 + _ROOM) * longest)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("bytes of a rank" if answer["tp"] > 1 else "bytes")
    show_bytes(axes.xaxis)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _sizes(homes: list[dict[str, Any]], part: str, bars: list[tuple[str, str]]) -> list[int]:
    """Return a part's bytes in each bar."""
    found = {(it["tables"], it["place"]): it["rank_bytes"] for it in homes if it["part"] == part}
    return [found.get(bar, 0) for bar in bars]


def _capacity(answer: Mapping[str, Any], place: str) -> float | None:
    """Return the bytes that a rank has of a place; host and disk are shared by all ranks."""
    size: int | None = answer[_SIZES[place]]
    return None if size is None else size if place == "gpu" else size / max(1, answer["tp"])


def _write_total(axes: Axes, row: int, used: int, there: float | None, most: float) -> None:
    """Write a bar's bytes at its end, and mark the bytes that there are."""
    of = "" if there is None else f" of {format_bytes(round(there))}"
    axes.annotate(
        f"{format_bytes(used)}{of}",
        (used, row),
        xytext=(4, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=6,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    if there is not None and there < most:
        axes.plot([there] * 2, [row - 0.48, row + 0.48], color=COLORS[1], linewidth=2)

"""The picture of `engram size`: parameters of the memory, and slack of the budget, over k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import COLORS, line_style, new_figure, show_counts, styled
from engram.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled()
def plot_size(answer: Mapping[str, Any]) -> Figure:
    """Draw the curve of a sized memory, its budget, and the k that was chosen.

    Args:
        answer: What ``engram size --plot --json`` prints: `Sizing.to_dict` with the points of
            `size_curve` as ``curve``.
    """
    points = answer["curve"]
    has_budget = answer["budget_params"] is not None
    figure, axes = new_figure(2 if has_budget else 1, height=1.75, sharex=True)
    _params(axes[0], answer, points)
    if has_budget:
        _slack(axes[1], points)
    axes[-1].set_xlabel("k (rows per n-gram order / vocabulary)")
    return figure


def _params(axes: Axes, answer: Mapping[str, Any], points: list[dict[str, Any]]) -> None:
    axes.set_title("Parameters of the memory by k")
    ks = [point["k"] for point in points]
    axes.plot(ks, [point["total_params"] for point in points], label="memory", **line_style(0))
    tables = [point["table_params"] for point in points]
    axes.plot(ks, tables, label="its tables", **{**line_style(1), "markersize": 2.5})
    if answer["budget_params"] is not None:
        budget = answer["budget_params"]
        axes.axhline(
            budget, color=COLORS[1], linestyle="--", label=f"budget {format_count(budget)}"
        )
    _mark_chosen(axes, points, "total_params")
    axes.set_ylabel("parameters")
    axes.set_ylim(bottom=0)
    show_counts(axes.yaxis)
    axes.legend(loc="upper left")


def _slack(axes: Axes, points: list[dict[str, Any]]) -> None:
    axes.set_title("Slack: budget less memory")
    slack = [point["slack_params"] for point in points]
    axes.plot([point["k"] for point in points], slack, **line_style(0))
    axes.axhline(0, color=COLORS[1], linestyle="--")
    _mark_chosen(axes, points, "slack_params")
    axes.set_ylabel("parameters")
    show_counts(axes.yaxis)


def _mark_chosen(axes: Axes, points: list[dict[str, Any]], key: str) -> None:
    """Ring the memory that was found, and write its k and number beside it."""
    (chosen,) = (point for point in points if point["is_chosen"])
    axes.plot(
        [chosen["k"]],
        [chosen[key]],
        "o",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=COLORS[1],
        markeredgewidth=1.2,
        label=f"chosen: k {chosen['k']:.4g}",
    )
    axes.annotate(
        format_count(chosen[key]),
        (chosen["k"], chosen[key]),
        xytext=(8, -9 if key == "total_params" else 7),
        textcoords="offset points",
    )

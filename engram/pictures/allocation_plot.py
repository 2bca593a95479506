"""The picture of `engram allocate`: the paper's losses over rho, and the splits of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import COLORS, line_style, new_figure, show_counts, styled
from engram.pictures.unseen import seen
from engram.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By kind of a point: whether its marker is filled, and its label.
_KINDS = {
    "printed": (True, "printed"),
    "stated as about equal": (False, "stated: about as at rho 1"),
}


@styled()
def plot_allocation(answer: Mapping[str, Any]) -> Figure:
    """Draw the allocation law: the loss over rho, and below it the splits of the model if any.

    Args:
        answer: What ``engram allocate --plot --json`` prints: `Allocation.to_dict` or
            `MixtureAllocation.to_dict` with `published_curves` as ``curves``.
    """
    figure, axes = new_figure(2, height=2)
    _law(axes[0], answer)
    if "mixture" in answer:
        _mixture(axes[1], answer)
    else:
        _slots(axes[1], answer["curves"]["slots"])
    figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside upper left", ncols=2)
    return figure


def _law(axes: Axes, answer: Mapping[str, Any]) -> None:
    curves = answer["curves"]
    axes.set_title(
        f"Loss by rho at P_tot {format_count(curves['total_params'])} (arXiv 2601.07372)"
    )
    guide = curves["guide"]
    axes.plot(
        [point["rho"] for point in guide],
        [point["loss"] for point in guide],
        color="#777777",
        linestyle=":",
        label="guide for the eye",
    )
    for kind, (is_filled, label) in _KINDS.items():
        points = [point for point in curves["loss"] if point["kind"] == kind]
        axes.plot(
            [point["rho"] for point in points],
            [point["loss"] for point in points],
            linestyle="none",
            marker="o",
            markersize=5,
            color=COLORS[0],
            markerfacecolor=COLORS[0] if is_filled else "white",
            label=label,
        )
    low, high = curves["best_rho"]
    label = f"printed best: {low:.2f} to {high:.2f}"
    axes.axvspan(low, high, color=COLORS[5], alpha=0.6, label=label)
    axes.axvline(answer["rho"], color=COLORS[1], linestyle="--", label=f"rho {answer['rho']:.4g}")
    axes.set_ylabel("nats a token")
    axes.set_xlabel("rho (part of the sparse parameters that experts keep)")
    axes.margins(y=0.1)


def _slots(axes: Axes, points: list[dict[str, Any]]) -> None:
    axes.set_title("Tables alone: loss by slots (read off a plot)")
    axes.set_xscale("log")
    axes.plot(
        [point["slots"] for point in points],
        [point["loss_change"] for point in points],
        **line_style(1),
    )
    axes.set_xlabel("slots of 1,280 values")
    axes.set_ylabel("nats a token,\nfrom the smallest")
    show_counts(axes.xaxis)


def _mixture(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title(f"Whole experts of {seen(answer['model'].rpartition('/')[2])}")
    points = answer["points"]
    rhos = [point["rho"] for point in points]
    for number, (key, name) in enumerate({"P_MoE": "experts", "P_Engram": "memory"}.items()):
        axes.plot(
            rhos, [point[key] for point in points], label=f"{key}: {name}", **line_style(number)
        )
    kept = answer["experts_kept"]
    axes.axvline(
        answer["rho"],
        color=COLORS[1],
        linestyle="--",
        label=f"{kept} of {answer['mixture']['experts']} experts",
    )
    axes.set_xlabel("rho")
    axes.set_ylabel("inactive parameters")
    axes.set_ylim(0, 1.5 * axes.get_ylim()[1])
    show_counts(axes.yaxis)
    axes.legend(loc="upper left")

"""The picture of `engram depth`: the logit lens of every run, and CKA with the effective depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import COLORS, label_of, nested_style, new_figure, styled
from engram.pictures.unseen import seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled()
def plot_depth(answer: Mapping[str, Any]) -> Figure:
    """Draw the divergence by layer of every run, and the alignment of each with the base.

    Args:
        answer: What ``engram depth --json`` prints, `Depth.to_dict`.
    """
    compared = [it for it in answer["cka"] if it["a"] != "base"]
    figure, axes = new_figure(1 + len(compared), height=2.3)
    _lens(axes[0], answer)
    for place, it in zip(axes[1:], compared, strict=True):
        _alignment(figure, place, answer, it["a"], it["matrix"])
    return figure


def _lens(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title("Logit lens: prediction after each layer")
    for number, (run, nats) in enumerate(answer["lens"].items()):
        axes.plot(range(len(nats)), nats, label=label_of(run), **nested_style(number))
    _mark_memory(axes, answer)
    axes.set_xlabel("layer")
    axes.set_ylabel("KL from the run's last\nprediction (nats a token)")
    axes.set_ylim(bottom=0)
    _whole_numbers(axes.xaxis)
    axes.legend()


def _alignment(
    figure: Figure,
    axes: Axes,
    answer: Mapping[str, Any],
    run: str,
    matrix: list[list[float]],
) -> None:
    axes.set_title(f"Alignment of {seen(run)} with the base")
    image = axes.imshow(
        matrix, origin="lower", cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, label="linear CKA")
    depths = answer["effective_depth"]
    labels = {run: "effective depth", "base": "that of the base"}
    for number, (name, label) in enumerate(labels.items()):
        # White below each line, so that it is seen on dark cells.
        style = nested_style(number + 1)
        places = [float("nan") if it is None else it for it in depths[name]]
        axes.plot(places, color="white", linewidth=style["linewidth"] + 2)
        axes.plot(places, label=label, **style)
    axes.set_xlim(-0.5, len(depths[run]) - 0.5)
    axes.set_ylim(-0.5, len(matrix) - 0.5)
    axes.grid(visible=False)
    axes.set_xlabel(f"layer of {seen(run)}")
    axes.set_ylabel("layer of the base")
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)
    # Early layers of the one are seldom like late ones of the other.
    axes.legend(loc="upper left", frameon=True, facecolor="white", framealpha=0.9)


def _mark_memory(axes: Axes, answer: Mapping[str, Any]) -> None:
    for number, layer in enumerate(answer["memory_layers"]):
        label = None if number else "reads the memory"
        axes.axvline(layer, color=COLORS[-1], linewidth=3, alpha=0.8, zorder=0, label=label)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))

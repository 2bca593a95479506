"""The picture of `engram hash --stats`: load, collisions, growth of n-grams, and cache curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import (
    line_style,
    nested_style,
    new_figure,
    show_counts,
    show_shares,
    styled,
)
from engram.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By key of a hit rate: the kind of the cache, and its line.
_RATES = {"lru_warm": ("LRU", "-"), "static_warm": ("fixed", "--")}


@styled()
def plot_statistics(answer: Mapping[str, Any]) -> Figure:
    """Draw how a text fills the tables, how its n-grams grow, and how caches of rows would hit.

    Args:
        answer: What ``engram hash --json`` prints, `HashedText.to_dict`; without cache curves
            there are three pictures in it.
    """
    cache = answer["cache"]
    figure, axes = new_figure(3 if cache is None else 4, height=1.75)
    _load(axes[0], answer["layers"])
    _collisions(axes[1], answer["layers"])
    _growth(axes[2], answer["growth"])
    if cache is not None:
        _cache(axes[3], cache)
    return figure


def _load(axes: Axes, layers: list[dict[str, Any]]) -> None:
    axes.set_title("Table load by head")
    _by_head(axes, layers, "load")
    axes.set_ylabel("rows hit / rows")
    show_shares(axes.yaxis)
    axes.legend(loc="lower right", ncols=2)


def _collisions(axes: Axes, layers: list[dict[str, Any]]) -> None:
    about = "estimated" if layers[0]["heads"][0]["kind"] == "estimated" else "exact"
    axes.set_title(f"Collisions by head ({about})")
    _by_head(axes, layers, "collisions")
    axes.set_ylabel("n-grams without\na row of their own")
    show_counts(axes.yaxis)


def _by_head(axes: Axes, layers: list[dict[str, Any]], key: str) -> None:
    """Draw a number of every head: a line for each layer and order."""
    heads = layers[0]["heads"]
    orders: dict[int, list[int]] = {}
    for place, head in enumerate(heads):
        orders.setdefault(head["order"], []).append(place)
    for number, layer in enumerate(layers):
        for label, places in enumerate(orders.values()):
            axes.plot(
                places,
                [layer["heads"][place][key] for place in places],
                label=None if label else f"layer {layer['layer_id']}",
                **nested_style(number),
            )
    for order, places in orders.items():
        axes.text(
            sum(places) / len(places),
            0.98,
            f"order {order}",
            transform=axes.get_xaxis_transform(),
            horizontalalignment="center",
            verticalalignment="top",
            fontsize=6.5,
        )
        if places[0]:
            axes.axvline(places[0] - 0.5, color="#999999", linewidth=0.6)
    names, size = [head["head"] for head in heads], min(6.5, 130 / len(heads))
    axes.set_xticks(range(len(heads)), names, fontsize=size)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("head")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])


def _growth(axes: Axes, curves: list[dict[str, Any]]) -> None:
    axes.set_title("Distinct n-grams, counted and predicted")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, curve in enumerate(curves):
        points, then, style = curve["points"], curve["prediction"], line_style(number)
        axes.plot(
            [point["tokens"] for point in points],
            [point["distinct_ngrams"] for point in points],
            label=f"order {curve['order']}{'' if then is None else f', then {_predicted(then)}'}",
            **style,
        )
        if then is not None:
            _prediction(axes, points[-1], then, style["color"])
    axes.set_xlabel("tokens of the text")
    axes.set_ylabel("distinct n-grams")
    show_counts(axes.xaxis)
    show_counts(axes.yaxis)
    axes.legend(loc="lower right")


def _predicted(then: dict[str, Any]) -> str:
    miss = then["relative_error"]
    error = "not checked" if miss is None else f"± {miss:.1%}"
    return f"{format_count(then['distinct_ngrams'])} ({error})"


def _prediction(axes: Axes, last: dict[str, Any], then: dict[str, Any], color: str) -> None:
    """Draw a prediction with its error, and a line to it from the end of the text."""
    tokens, distinct, miss = then["tokens"], then["distinct_ngrams"], then["relative_error"]
    axes.plot(
        [last["tokens"], tokens], [last["distinct_ngrams"], distinct], color=color, linestyle=":"
    )
    axes.errorbar(
        [tokens],
        [distinct],
        # A logarithmic axis has no zero.
        yerr=None if miss is None else [[distinct * min(miss, 0.99)], [distinct * miss]],
        color=color,
        marker="*",
        markersize=6,
        capsize=3,
        linestyle="none",
    )


def _cache(axes: Axes, cache: dict[str, Any]) -> None:
    axes.set_title(f"Warm row caches, {format_count(cache['tokens'])} tokens")
    axes.set_xscale("log")
    for number, layer in enumerate(cache["layers"]):
        rows = [point["rows"] for point in layer["points"]]
        for key, (name, line) in _RATES.items():
            rates = [point[key] for point in layer["points"]]
            style = {**nested_style(number), "linestyle": line}
            axes.plot(rows, rates, label=f"layer {layer['layer_id']}, {name}", **style)
    axes.set_xlabel("rows in the cache")
    axes.set_ylabel("hits / look-ups")
    show_counts(axes.xaxis)
    show_shares(axes.yaxis)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left")

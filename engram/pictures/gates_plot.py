"""The picture of `engram gates`: every gate at every token, and how the gates are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.page import marked
from engram.pictures.style import PAGE, line_style, new_figure, styled
from engram.pictures.unseen import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# More tokens than this have numbers in the place of their text.
_MOST_LABELS = 60
_LONGEST_LABEL = 14
_BINS = 20


@styled()
def plot_gates(answer: Mapping[str, Any]) -> Figure:
    """Draw the gates of a text: a map of layers and streams over tokens, and their histogram.

    Args:
        answer: What ``engram gates --json`` prints, with at least one token.
    """
    import numpy as np

    tokens = answer["tokens"]
    names = [(gate["layer_id"], gate["stream"]) for gate in tokens[0]["gates"]]
    gates = np.array([[gate["gate"] for gate in token["gates"]] for token in tokens], float).T
    labels = [
        f"{layer}.{stream}" if answer["streams"] > 1 else str(layer) for layer, stream in names
    ]
    name = "layer.stream" if answer["streams"] > 1 else "layer"
    heights = [max(0.5, 0.16 * len(names)), 1.1]
    height = (sum(heights) + 1.0) / 2
    figure, (upper, lower) = new_figure(2, width=PAGE, height=height, height_ratios=heights)
    _map(upper, gates, [token["text"] for token in tokens], labels)
    upper.set_ylabel(name)
    _histogram(lower, gates, labels, name)
    return figure


def _map(axes: Axes, gates: NDArray[Any], texts: list[str], labels: list[str]) -> None:
    """Draw the gates ``[rows, tokens]`` as a map, darker where they are open."""
    axes.set_title("Gate at each token")
    axes.grid(visible=False)
    # Its lightness falls evenly, so that it can be read in greyscale too.
    image = axes.imshow(gates, aspect="auto", cmap="Reds", vmin=0, vmax=1, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=min(20, 2 + 2 * len(gates)))
    bar.set_label("gate")
    axes.set_yticks(range(len(labels)), labels)
    if len(texts) <= _MOST_LABELS:
        axes.set_xticks(range(len(texts)), list(map(_label, texts)), rotation=90)
    else:
        axes.set_xlabel("token")


def _histogram(axes: Axes, gates: NDArray[Any], labels: list[str], name: str) -> None:
    """Draw the share of tokens by gate, for each row of the map."""
    import numpy as np

    axes.set_title("Distribution of the gates")
    edges = np.linspace(0, 1, _BINS + 1)
    for number, (row, label) in enumerate(zip(gates, labels, strict=True)):
        shares = np.histogram(row, edges)[0] / len(row)
        middles = (edges[:-1] + edges[1:]) / 2
        axes.plot(middles, shares, label=label, **{**line_style(number), "markersize": 2})
    axes.set_xlabel("gate")
    axes.set_ylabel("share of tokens")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(title=name, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _label(text: str) -> str:
    """Return a token's text as a label: spaces visible, and no longer than a tick can be."""
    return shortened(marked(text), _LONGEST_LABEL)

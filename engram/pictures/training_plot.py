"""The picture of `engram train`: losses, rows that move, and gates, over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.pictures.style import COLORS, line_style, new_figure, show_counts, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled()
def plot_training(answer: Mapping[str, Any]) -> Figure:
    """Draw the course of a run.

    Args:
        answer: What ``engram train --plot --json`` prints: `Trained.to_dict` with its records as
            ``log``. What a run does not have, such as gates of a control without a memory, is left
            out.
    """
    log = answer["log"]
    panels = [_losses]
    if any(record["rows_touched"] for record in log):
        panels.append(_touched)
    if any(moved is not None for _, moved in _movement(answer)):
        panels.append(_moved)
    if any(record["gate_means"] for record in log):
        panels.append(_gates)
    figure, axes = new_figure(len(panels), height=1.6, sharex=True)
    for draw, one in zip(panels, axes, strict=True):
        draw(one, answer)
    axes[-1].set_xlabel("step")
    show_counts(axes[-1].xaxis)
    return figure


def _losses(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title("Loss")
    log = answer["log"]
    losses = [record["loss"] for record in log]
    axes.plot(
        [record["step"] for record in log], losses, color=COLORS[2], linewidth=0.8, label="a step"
    )
    seen = [record for record in log if "held_out_nats" in record]
    if seen:
        nats = [record["held_out_nats"] for record in seen]
        axes.plot(
            [record["step"] for record in seen], nats, label="held out, a part", **line_style(0)
        )
    ends = [(0, answer["held_out_start"])]
    ends += [(answer["steps"], answer["held_out"])] if answer["held_out"] is not None else []
    axes.plot(
        [step for step, _ in ends],
        [losses["nats_per_token"] for _, losses in ends],
        label="held out, all",
        **{**line_style(3), "linestyle": "none", "markersize": 5},
    )
    axes.set_ylabel("nats a token")
    axes.legend(loc="upper right")


def _touched(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title("Rows touched by a step")
    log = answer["log"]
    steps = [record["step"] for record in log]
    axes.plot(steps, [record["rows_touched"] for record in log], color=COLORS[0], linewidth=0.8)
    axes.set_ylabel("rows")
    axes.set_ylim(bottom=0)
    show_counts(axes.yaxis)


def _movement(answer: Mapping[str, Any]) -> list[tuple[int, float | None]]:
    """Return how far rows have moved at evaluations and at the end."""
    points = [
        (record["step"], record["row_movement"])
        for record in answer["log"]
        if "row_movement" in record
    ]
    return [*points, (answer["steps"], answer["row_movement"])]


def _moved(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title("Distance that rows have moved")
    points = [(step, moved) for step, moved in _movement(answer) if moved is not None]
    axes.plot(*zip(*points, strict=True), **line_style(0))
    axes.set_ylabel("of their start\n(root mean squares)")
    axes.set_ylim(bottom=0)


def _gates(axes: Axes, answer: Mapping[str, Any]) -> None:
    axes.set_title("Mean gate")
    log = [record for record in answer["log"] if record["gate_means"]]
    every = max(1, len(log) // 12)
    for number, layer_id in enumerate(log[0]["gate_means"]):
        axes.plot(
            [record["step"] for record in log],
            [record["gate_means"][layer_id] for record in log],
            label=f"layer {layer_id}",
            markevery=every,
            **{**line_style(number), "linewidth": 0.8},
        )
    axes.set_ylabel("gate, 0 to 1")
    axes.legend(loc="best", ncols=2)

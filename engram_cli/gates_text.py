"""Text output of `engram gates`: tokens in the colours of their gates, or a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from engram.units import plural
from engram_cli.output import Painted, Shown, ShownInColors, Table

Gate = tuple[int, int]
Color = tuple[int, int, int]

# From a closed gate to an open one, and for a change of loss: from helped over none to harmed.
_OPENING = ((255, 245, 240), (251, 106, 74), (103, 0, 13))
_CHANGE = ((33, 102, 172), (247, 247, 247), (217, 95, 2))
# Luminance with equal contrast to black and to white.
_MIDDLE = 0.179
_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HARMED = "with the memory less without, in nats; below zero it helps"


def show(
    answer: dict[str, Any], layer: int | None, stream: int | None, colors: bool
) -> ShownInColors:
    """Describe a reading for people.

    Args:
        answer: The reading, as `--json` prints it.
        layer: The only layer to show; all of them when None.
        stream: The only stream to show; all of them when None.
        colors: Whether tokens are painted.
    """
    chosen = [
        (layer_id, number)
        for layer_id in answer["layers"]
        for number in range(answer["streams"])
        if layer in (None, layer_id) and stream in (None, number)
    ]
    if answer["tokens"]:
        yield from _painted(answer, chosen) if colors else _plain(answer, chosen)
    if answer["collisions"] is not None:
        yield from _collisions(answer["collisions"], layer)
    if answer["telling"] is not None:
        yield from _telling(answer, chosen)
    if answer["notes"]:
        yield ""
    yield from answer["notes"]


def _painted(answer: dict[str, Any], chosen: Sequence[Gate]) -> ShownInColors:
    tokens = answer["tokens"]
    legend = [("gate ", "")]
    for step in _STEPS:
        legend += [(f" {step:g} ", _style(_OPENING, step)), (" ", "")]
    yield Painted(legend)
    for name in chosen:
        values = [_values(token, name) for token in tokens]
        gates = [gate for gate, _ in values]
        writes = median(write for _, write in values)
        yield (
            f"\n{_title(answer, name)}: gates {min(gates):.2f} to {max(gates):.2f}, mean "
            f"{fmean(gates):.2f}; median write {writes:.2g} of the stream"
        )
        yield Painted(
            [
                (_visible(token["text"]), _style(_OPENING, gate))
                for token, gate in zip(tokens, gates, strict=True)
            ]
        )
    changes = [_change(token) for token in tokens]
    known = [change for change in changes if change is not None]
    if not known:
        return
    most = max(map(abs, known)) or 1.0
    yield (
        f"\nChange of loss ({_HARMED}): {fmean(known):+.3f} a token in "
        f"{plural(len(known), 'token')}"
    )
    parts = [("", "")]
    for share in (-1.0, 0.0, 1.0):
        parts += [(f" {share * most:+.2f} ", _style(_CHANGE, (share + 1) / 2)), (" ", "")]
    yield Painted(parts)
    yield Painted(
        [
            (
                _visible(token["text"]),
                "" if change is None else _style(_CHANGE, (change / most + 1) / 2),
            )
            for token, change in zip(tokens, changes, strict=True)
        ]
    )


def _plain(answer: dict[str, Any], chosen: Sequence[Gate]) -> Shown:
    names = [str(name[0]) if answer["streams"] == 1 else f"{name[0]}.{name[1]}" for name in chosen]
    rows = []
    for position, token in enumerate(answer["tokens"]):
        change = _change(token)
        cells = [
            cell
            for name in chosen
            for cell in (f"{_values(token, name)[0]:.3f}", f"{_values(token, name)[1]:.2g}")
        ]
        told = "-" if change is None else f"{change:+.3f}"
        rows.append((position, token["id"], repr(token["text"]), *cells, told))
    columns = [f"{what} {name}" for name in names for what in ("gate", "write")]
    yield Table(rows, ("position", "id", "token", *columns, "change"), left=("token",))
    which = "layer" if answer["streams"] == 1 else "layer.stream"
    yield (
        f"\ngate and write: by {which}; write: norm of what is added over that of the stream; "
        f"change: loss {_HARMED}."
    )


def _collisions(stated: dict[str, Any], layer: int | None) -> Shown:
    yield f"\nHeads in the text of {stated['source']}"
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for it in stated["layers"]:
        for head in it["heads"] if layer in (None, it["layer_id"]) else ():
            groups.setdefault((it["layer_id"], head["order"]), []).append(head)
    rows = []
    for key, heads in groups.items():
        loads = [head["load"] for head in heads]
        shares = [head["collisions"] / max(1, head["distinct_ngrams"]) for head in heads]
        about = "~" if heads[0]["kind"] == "estimated" else ""
        rows.append((*key, len(heads), f"{fmean(loads):.1%}", f"{about}{fmean(shares):.1%}"))
    yield Table(rows, ("layer", "order", "heads", "mean load", "collisions of its n-grams"))


def _telling(answer: dict[str, Any], chosen: Sequence[Gate]) -> Shown:
    headings = ("order", "count", "mean gate", "gain", "n-gram")
    begins_answer = not answer["tokens"] and answer["collisions"] is None
    for number, name in enumerate([*chosen, None]):
        rows = [
            (
                it["order"],
                f"{it['count']:,}",
                f"{it['gate_mean']:.3f}",
                "-" if it["gain"] is None else f"{it['gain']:+.3f}",
                repr(it["text"]),
            )
            for it in answer["telling"]
            if (it["layer_id"], it["stream"]) == (name or (None, None))
        ]
        if number or not begins_answer:
            yield ""
        if name is None:
            yield "N-grams that help most (gain in nats, of the token after them)"
        else:
            yield f"{_title(answer, name)}: n-grams with the highest mean gates"
        yield Table(rows, headings, left=("n-gram",)) if rows else "none occurs often enough"


def _title(answer: dict[str, Any], name: Gate) -> str:
    layer_id, stream = name
    return f"Layer {layer_id}" if answer["streams"] == 1 else f"Layer {layer_id}, stream {stream}"


def _values(token: dict[str, Any], name: Gate) -> tuple[float, float]:
    """Return the gate and the write of a token; not a number where it has none."""
    found = next(it for it in token["gates"] if (it["layer_id"], it["stream"]) == name)
    gate, write = found["gate"], found["write_norm"]
    return (float("nan") if gate is None else gate, float("nan") if write is None else write)


def _change(token: dict[str, Any]) -> float | None:
    loss, without = token["loss"], token["loss_off"]
    return None if loss is None or without is None else loss - without


def _visible(text: str) -> str:
    """Return a token as it is painted: ends of lines are marked, and so is what has no text."""
    return re.sub(r"\r?\n", "⏎\n", text).replace("\t", "⇥   ") or "∅"


def _style(stops: tuple[Color, Color, Color], share: float) -> str:
    """Return the colours of a value from 0 to 1, as rich names them; "" if it is not a number."""
    if not 0 <= share <= 1:
        return ""
    low, high = stops[:2] if share < 0.5 else stops[1:]
    part = 2 * share - (share >= 0.5)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    luminance = sum(
        weight * (value / 255) ** 2.2
        for weight, value in zip((0.2126, 0.7152, 0.0722), (red, green, blue), strict=True)
    )
    return f"{'#000000' if luminance > _MIDDLE else '#ffffff'} on #{red:02x}{green:02x}{blue:02x}"

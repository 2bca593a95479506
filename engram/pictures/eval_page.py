"""`eval_html`: whether the memory helps, where and how much, as a page: the answer first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from engram.pictures.inline_charts import Bar, Interval, bars, curves, figure, forest
from engram.pictures.page import (
    Frame,
    Html,
    bullets,
    last_name,
    minus,
    page,
    section,
    signed,
    table,
)
from engram.units import plural

_RUNS = {
    "on": "memory on",
    "off": "memory off",
    "permuted": "rows permuted",
    "base": "the base",
}
_KINDS = {
    "frequency": "By frequency of the token",
    "ngram": "By n-grams seen or unseen",
    "word_part": "By part of a word",
}


def eval_html(evaluation: Mapping[str, Any], *, command: str | None = None) -> str:
    """Return a page that shows an evaluation.

    Args:
        evaluation: `Evaluation.to_dict()`, schema ``engram.eval/1``.
        command: The command that made it.

    Returns:
        The page, which loads nothing and runs no script.
    """
    found = evaluation
    frame = Frame(
        title=f"Evaluation of {last_name(found['target'])}",
        lead=found["verdict"],
        source=f"{found['target']} on {found['text']}: {_counts(found)}; windows of "
        f"{found['context']:,} tokens",
        command=command,
    )
    body = [_losses(found)]
    if found["training"]:
        body.append(_training(found))
    if found["groups"]:
        body.append(_groups(found))
    if found["positions"]:
        body.append(_positions(found["positions"]))
    if found["needles"]:
        body.append(_needles(found["needles"]))
    if found["layers"]:
        body.append(_layers(found["layers"]))
    if found["notes"]:
        body.append(section("Notes", bullets(found["notes"])))
    return page(frame, *body)


def _called(name: str) -> str:
    return _RUNS.get(name, name)


def _counts(found: Mapping[str, Any]) -> str:
    size = f"{found['bytes']:,} bytes{'' if found['bytes_are_exact'] else ' (estimated)'}"
    return f"{plural(found['documents'], 'document')}, {plural(found['tokens'], 'token')}, {size}"


def _losses(found: Mapping[str, Any]) -> Html:
    parts: list[str] = [_runs_table(found["runs"], "Losses of every run")]
    if found["differences"]:
        parts += _differences(found["differences"], "Differences of the loss")
    note = "Loss of each token given those before it, in windows that follow each other."
    return section("Losses", *parts, note=note)


def _runs_table(runs: Mapping[str, Any], label: str) -> Html:
    rows = [
        (
            _called(name),
            f"{run['nats_per_token']:.4f}",
            f"{run['perplexity']:,.3f}",
            None if run["bits_per_byte"] is None else f"{run['bits_per_byte']:.4f}",
        )
        for name, run in runs.items()
    ]
    return table(("run", "nats per token", "perplexity", "bits per byte"), rows, label=label)


def _differences(differences: Sequence[Mapping[str, Any]], label: str) -> list[str]:
    names = [f"{_called(it['a'])} minus {_called(it['b'])}" for it in differences]
    values = [(it["nats"], it["low"], it["high"]) for it in differences]
    rows = [
        (name, *(None if value is None else signed(value, 4) for value in it))
        for name, it in zip(names, values, strict=True)
    ]
    numbers = table(("difference", "nats", "low", "high"), rows, label=label)
    # Of one document there are no intervals to draw.
    if any(None in it for it in values):
        return [numbers]
    intervals = [Interval(name, *it) for name, it in zip(names, values, strict=True)]
    return [
        figure(
            forest(intervals, label, "nats per token"),
            "Dot: the difference. Line: its 95 % interval, from a paired bootstrap over documents. "
            "Left of zero the first of the two has the lower loss.",
            numbers,
        )
    ]


def _training(found: Mapping[str, Any]) -> Html:
    training = found["training"]
    label = "On the text of the training"
    rows = _runs_table(training["runs"], label)
    drawn = _differences(training["differences"], f"Differences: {label.lower()}")
    counted = f"{plural(training['documents'], 'document')}, {plural(training['tokens'], 'token')}"
    memorised = training["memorised_nats"]
    side = "more" if memorised >= 0 else "fewer"
    told = f"{counted}. {abs(memorised):.4f} nats a token {side} are gained there."
    return section(label, rows, *drawn, note=told)


def _groups(found: Mapping[str, Any]) -> Html:
    parts: list[str] = []
    for kind, same in groupby(found["groups"], key=lambda it: it["by"]):
        groups, title = list(same), _KINDS.get(kind, f"By {kind}")
        drawn = [Bar(it["group"], it["gain"], f"{signed(it['gain'], 3)} nats") for it in groups]
        rows = [
            (
                it["group"],
                f"{it['tokens']:,}",
                f"{it['nats_on']:.4f}",
                f"{it['nats_off']:.4f}",
                signed(it["gain"], 4),
                None if it["share_of_gain"] is None else minus(f"{it['share_of_gain']:.1%}"),
            )
            for it in groups
        ]
        headings = ("tokens that are", "count", "on", "off", "gain", "share of gain")
        of = f" Frequencies are of {found['frequency_source']}." if kind == "frequency" else ""
        parts += [
            Html(f"<h3>{title}</h3>"),
            figure(
                bars(drawn, f"Gain {title.lower()}"),
                f"Loss with the memory off, less that with it on, in nats per token.{of}",
                table(headings, rows, label=title),
            ),
        ]
    return section("Tokens that gain", *parts, note="Gain above zero: the memory helps there.")


def _positions(positions: Sequence[Mapping[str, Any]]) -> Html:
    names = list(positions[0]["runs"])
    steps = [f"{it['first']:,}" for it in positions]
    series = {_called(name): [it["runs"][name] for it in positions] for name in names}
    rows = [
        (
            f"{it['first']:,}" + (f" to {it['last']:,}" if it["last"] > it["first"] else ""),
            f"{it['tokens']:,}",
            *(f"{it['runs'][name]:.4f}" for name in names),
        )
        for it in positions
    ]
    headings = ("tokens before", "tokens", *map(_called, names))
    return section(
        "Loss by position",
        figure(
            curves(series, steps, "Loss by position", "tokens before, from", "nats per token"),
            "Mean loss of the tokens that have so many before them in their window.",
            table(headings, rows, label="Loss by position"),
        ),
    )


def _needles(needles: Mapping[str, Any]) -> Html:
    runs = [
        (_called(name), f"{run['nats_per_token']:.4f}", f"{run['exact']:.1%}")
        for name, run in needles["runs"].items()
    ]
    items = [
        (
            f"{it['depth']:.0%}",
            _called(it["run"]),
            f"{it['nats']:.4f}",
            "yes" if it["exact"] else "no",
        )
        for it in sorted(needles["items"], key=lambda it: (it["depth"], it["run"]))
    ]
    return section(
        "Needles",
        table(("run", "nats per token", "all right"), runs, label="Needles by run"),
        Html("<details><summary>Every needle</summary>"),
        table(("depth", "run", "nats", "all right"), items, label="Every needle", left=("run",)),
        Html("</details>"),
        note=f"{plural(needles['count'], 'fact')} hidden in each of "
        f"{plural(needles['trials'], 'text')} of {needles['context']:,} tokens, and asked for at "
        "its end. Depth: where the fact stands, from the beginning to the end. All right: the "
        "model's most likely tokens are the answer, each of them.",
    )


def _layers(layers: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        (
            f"layer {it['layer_id']}",
            f"{it['gate_mean']:.3f}",
            *(f"{value:.3f}" for value in it["gate_quartiles"]),
            f"{it['write_norm']:.4g}",
            f"{it['row_rms']:.4g}",
            None if it["row_norm_over_start"] is None else f"{it['row_norm_over_start']:.4g}",
        )
        for it in layers
    ]
    headings = (
        *("layer", "mean gate", "25 %", "50 %", "75 %", "norm added", "RMS of rows"),
        "rows over start",
    )
    return section(
        "Layers",
        table(headings, rows, label="Probes of every layer"),
        note="Norm added: the median norm of what the memory adds, as a share of the stream's. "
        "Rows over start: the norm of the rows, as a multiple of that before training.",
    )

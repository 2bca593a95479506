"""`gates_html`: every gate at every token, as a page for mouse, keyboard and screen reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from engram.pictures.inline_charts import histogram
from engram.pictures.page import (
    Frame,
    Html,
    bullets,
    escaped,
    last_name,
    marked,
    page,
    section,
    signed,
    table,
    token,
)
from engram.pictures.unseen import seen, shortened
from engram.units import plural

_SCRIPT = Path(__file__).with_name("gate_page.js")
_STYLE = Path(__file__).with_name("gate_page.css")
_DIGITS = 4
_CHUNK = 64  # tokens that are drawn at a time

_FOLD = "Every token as a table"
_PANEL = "Rest on a token, touch it, or tab into the text and use the arrow keys."


def gates_html(reading: Mapping[str, Any], *, command: str | None = None) -> str:
    """Return a page that shows a reading of gates.

    Without scripts it shows the tokens, shaded by their mean gate, and all tables.

    Args:
        reading: `GateReading.to_dict()`, schema ``engram.gates/1``.
        command: The command that made it.

    Returns:
        The page, which loads nothing.
    """
    tokens, telling = reading["tokens"], reading.get("telling")
    frame = Frame(
        title=f"Gates of {last_name(reading['target'])}",
        lead=_lead(reading),
        source=_source(reading),
        command=command,
        style=_STYLE.read_text(encoding="utf-8"),
        script=_SCRIPT.read_text(encoding="utf-8") if tokens else "",
        data=_data(reading) if tokens else None,
    )
    body = []
    if tokens:
        body += [_text(reading), _every_gate(reading)]
    if telling:
        body.append(_telling(telling))
    if tokens:
        body.append(_tokens_table(reading))
    if reading["notes"]:
        body.append(section("Notes", bullets(reading["notes"])))
    return page(frame, *body)


def _lead(reading: Mapping[str, Any]) -> str:
    tokens = reading["tokens"]
    if not tokens:
        count = plural(len(reading.get("telling") or ()), "n-gram")
        return f"{count} of a data set: the highest gates, and the largest gains."
    gates = [it["gate"] for read in tokens for it in read["gates"] if it["gate"] is not None]
    told = (
        f"{plural(len(_columns(reading)), 'gate')} at each of {plural(len(tokens), 'token')}; "
        f"the mean gate is {fmean(gates):.2f}."
        if gates
        else f"{plural(len(tokens), 'token')}, and no gate."
    )
    changes = [it["loss"] - it["loss_off"] for it in tokens if _has_change(it)]
    if not changes:
        return told
    on = fmean(it["loss"] for it in tokens if _has_change(it))
    mean = fmean(changes)
    side = "lower" if mean < 0 else "higher"
    return (
        f"{told} With the memory, the text's loss is {on:.3f} nats per token, {abs(mean):.3f} "
        f"{side} than with it off."
    )


def _source(reading: Mapping[str, Any]) -> str:
    shown = shortened(" ".join((reading.get("text") or "").split()))
    return f"{reading['target']}, layout {reading['layout']}" + (f": “{shown}”" if shown else "")


def _has_change(token_read: Mapping[str, Any]) -> bool:
    return token_read["loss"] is not None and token_read["loss_off"] is not None


def _columns(reading: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Layer and stream of every gate, in the order of the data."""
    return [
        (layer_id, stream) for layer_id in reading["layers"] for stream in range(reading["streams"])
    ]


def _values(read: Mapping[str, Any], key: str, columns: Sequence[tuple[int, int]]) -> list[Any]:
    """A token's gates or norms in the order of the columns; None where there is none."""
    by_place = {(gate["layer_id"], gate["stream"]): gate[key] for gate in read["gates"]}
    return [_short(by_place.get(column)) for column in columns]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _data(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the script shows; texts are marked already, so that it never marks any."""
    columns, layers = _columns(reading), reading["layers"]
    return {
        "layers": layers,
        "streams": reading["streams"],
        "tokens": [
            [
                read["id"],
                _short(read["loss"]),
                _short(read["loss_off"]),
                _values(read, "gate", columns),
                _values(read, "write_norm", columns),
                [
                    [gram["order"], marked(gram["text"]), [_rows(gram, it) for it in layers]]
                    for gram in read["ngrams"]
                ],
            ]
            for read in reading["tokens"]
        ],
        "heads": _heads(reading),
        "stats": _stats_note(reading),
    }


def _rows(gram: Mapping[str, Any], layer_id: int) -> list[int]:
    return next((it["rows"] for it in gram["rows"] if it["layer_id"] == layer_id), [])


def _heads(reading: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Used and shared rows of each head, as they are shown, by layer and order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for layer in (reading.get("collisions") or {}).get("layers", ()):
        for head in sorted(layer["heads"], key=lambda head: head["head"]):
            shared = head["collisions"] / max(1, head["distinct_ngrams"])
            told = (f"{head['load']:.0%}", f"{shared:.0%}")
            found.setdefault(f"{layer['layer_id']} {head['order']}", []).append(told)
    return found


def _stats_note(reading: Mapping[str, Any]) -> str:
    if not reading.get("collisions"):
        return ""
    return (
        "Used: rows of the head that an n-gram reads. Shared: n-grams that read a row which "
        f"another reads already. From {seen(str(reading['collisions']['source']))}."
    )


def _text(reading: Mapping[str, Any]) -> Html:
    """The controls, the tokens with their legend, and the panel of one token."""
    columns = _columns(reading)
    parts = []
    for read in reading["tokens"]:
        gates = [value for value in _values(read, "gate", columns) if value is not None]
        level = f"{fmean(gates):.3f}" if gates else "0"
        line_end = "<br>" if "\n" in read["text"] else ""
        parts.append(f'<bdi style="--v:{level}">{escaped(marked(read["text"]))}</bdi>{line_end}')
    chunks = (parts[at : at + _CHUNK] for at in range(0, len(parts), _CHUNK))
    text = "".join(f"<span>{''.join(chunk)}</span>" for chunk in chunks)
    layers = _options("layer", "all layers", reading["layers"])
    streams = _options("stream", "all streams", range(reading["streams"]))
    return Html(
        f"""<section class="look"><h2>The text</h2>
<form class="choice" hidden>
<label>Shade by <select id="what"><option value="gate">gate</option>
<option value="norm">norm of what is added</option>
<option value="change">change of loss by the memory</option></select></label>
{layers}{streams}<label><input type="checkbox" id="stretch"> stretch to this text</label>
</form>
<div class="legend" id="legend"><p class="note" id="told">Background: the mean of all
{plural(len(columns), "gate")} of a token, from 0 (none) to 1 (full). No gate is picked.</p></div>
<div class="beside"><div class="text" id="tokens" role="group" aria-label="Tokens"
aria-describedby="told" dir="{_direction(reading["tokens"])}">
{text}
</div>
<aside id="panel" tabindex="0" role="region" aria-label="The chosen token" hidden>
<div aria-live="polite" id="now"><p class="note">{_PANEL}</p></div><div id="more"></div></aside>
</div></section>"""
    )


def _options(name: str, every: str, values: Iterable[int]) -> str:
    options = "".join(f'<option value="{it}">{name} {it}</option>' for it in values)
    return (
        f'<label>{name.capitalize()} <select id="{name}"><option value="">{every}</option>'
        f"{options}</select></label>\n"
    )


def _direction(tokens: Iterable[Mapping[str, Any]]) -> str:
    """The direction of the first letter that has one, since `dir=auto` does not look into <bdi>."""
    for read in tokens:
        for letter in read["text"]:
            kind = unicodedata.bidirectional(letter)
            if kind in ("L", "R", "AL"):
                return "ltr" if kind == "L" else "rtl"
    return "ltr"


def _every_gate(reading: Mapping[str, Any]) -> Html:
    """Statistics of each gate over the text, none left out."""
    rows = []
    for layer_id, stream in _columns(reading):
        here = [
            gate
            for read in reading["tokens"]
            for gate in read["gates"]
            if (gate["layer_id"], gate["stream"]) == (layer_id, stream)
        ]
        gates = [gate["gate"] for gate in here if gate["gate"] is not None]
        norms = [gate["write_norm"] for gate in here if gate["write_norm"] is not None]
        if not gates:
            continue
        quartiles = quantiles(gates, n=4) if len(gates) > 1 else gates * 3
        rows.append(
            (
                f"layer {layer_id}, stream {stream}",
                histogram(gates, 0, 1, f"Gates of layer {layer_id}, stream {stream}, 0 to 1"),
                f"{fmean(gates):.3f}",
                *(f"{it:.3f}" for it in quartiles),
                f"{max(gates):.3f}",
                f"{median(norms):.3g}" if norms else None,
            )
        )
    headings = ("gate", "0 to 1", "mean", "25 %", "50 %", "75 %", "highest", "norm")
    return section(
        "Every gate",
        table(headings, rows, label="Every gate over the text", left=("0 to 1",)),
        note="Over all tokens of the text. Norm: the median norm of what the memory adds, as a "
        "share of the norm of the stream that it is added to. A high gate that adds a small norm "
        "changes nothing.",
    )


def _telling(telling: Sequence[Mapping[str, Any]]) -> Html:
    parts: list[str] = []
    for kind, same in groupby(telling, key=lambda it: it["by"]):
        rows = [
            (
                token(it["text"]),
                it["order"],
                f"{it['count']:,}",
                f"{it['gate_mean']:.3f}",
                _whose(it),
                None if it["gain"] is None else signed(it["gain"], 3),
            )
            for it in same
        ]
        headings = ("n-gram", "order", "count", "mean gate", "of", "gain in nats")
        title = {"gate": "By the highest gate", "gain": "By the largest gain"}[kind]
        parts += [Html(f"<h3>{title}</h3>"), table(headings, rows, label=title, left=("of",))]
    return section(
        "Telling n-grams",
        *parts,
        note="The n-grams of a data set with the highest gates, and those with the largest gains. "
        "Gain: the loss of the tokens after them with the memory off, less that with it on; above "
        "zero the memory helps.",
    )


def _whose(gram: Mapping[str, Any]) -> str:
    if gram["layer_id"] is None:
        return "all gates"
    return f"layer {gram['layer_id']}, stream {gram['stream']}"


def _tokens_table(reading: Mapping[str, Any]) -> Html:
    """All tokens as a table, for readers without scripts, and for copying.

    It is left out of the document until the script is asked for it: long texts have many cells.
    """
    columns = _columns(reading)
    rows = []
    for position, read in enumerate(reading["tokens"]):
        change = read["loss"] - read["loss_off"] if _has_change(read) else None
        losses = (read["loss"], read["loss_off"])
        rows.append(
            (
                Html(f"{position + 1} {token(read['text'])}"),
                read["id"],
                *(None if it is None else f"{it:.3f}" for it in losses),
                None if change is None else signed(change, 3),
                *(None if it is None else f"{it:.3f}" for it in _values(read, "gate", columns)),
            )
        )
    gates = (f"gate {layer_id}.{stream}" for layer_id, stream in columns)
    headings = ("token", "id", "loss", "loss off", "change", *gates)
    shown = table(headings, rows, label=_FOLD)
    return Html(
        f'<section><details id="all"><summary>{_FOLD}</summary><noscript>'
        '<p class="note">Losses in nats; change: loss less loss with the memory off. Gates by '
        f"layer and stream.</p>{shown}</noscript></details></section>"
    )

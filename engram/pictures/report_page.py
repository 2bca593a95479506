"""`report_html`: parameters and bytes of a memory by place and part, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.pictures.inline_charts import Bar, bars, figure
from engram.pictures.page import Frame, Html, bullets, last_name, page, section, table
from engram.units import format_bytes, format_count, plural

_PLACES = {"gpu": "GPU", "cpu": "host memory", "disk": "disk"}
_CAPACITIES = {
    "gpu": ("device_memory_bytes", "fits_device"),
    "cpu": ("host_memory_bytes", "fits_host"),
    "disk": ("disk_bytes", "fits_disk"),
}
_FITS = {True: "yes", False: "no", None: "unknown"}


def report_html(report: Mapping[str, Any], *, command: str | None = None) -> str:
    """Return a page that shows a report.

    Args:
        report: `Report.to_dict()`, schema ``engram.report/1``.
        command: The command that made it.

    Returns:
        The page, which loads nothing and runs no script.
    """
    body = [_places(report), _parts(report)]
    if report["layers"]:
        body.append(_layers(report))
    if report["training"]:
        body.append(_training(report))
    body.append(section("Assumptions", bullets(report["assumptions"])))
    frame = Frame(
        title=f"Report on {last_name(report['target'])}",
        lead=_lead(report),
        source=f"{report['target']}: {report['title']}",
        command=command,
    )
    return page(frame, *body)


def _lead(report: Mapping[str, Any]) -> str:
    totals = report["totals"]
    memory = f"a memory of {format_count(totals['engram_params'])} parameters"
    base = totals["base_params"]
    take = "takes"
    if base and totals["engram_params"]:
        counted, take = f"{memory} and a base of {format_count(base)}", "take"
    else:
        counted = f"a base of {format_count(base)} parameters" if base else memory
    mode = report["mode"] + (f" with {report['optimizer']}" if report["optimizer"] else "")
    verdict = {True: " It fits.", False: " It does not fit.", None: ""}[report["fits"]]
    size = format_bytes(totals["total_bytes"])
    return (
        f"{counted[0].upper()}{counted[1:]} {take} {size} for {mode}, "
        f"{report['reads']['bytes_per_token']:,} bytes of them read for each token.{verdict}"
    )


def _places(report: Mapping[str, Any]) -> Html:
    totals, several = report["totals"], report["tp"] > 1
    used = {
        place: (totals[f"rank_{place}_bytes"], report[capacity], report[fits])
        for place, (capacity, fits) in _CAPACITIES.items()
        if totals[f"rank_{place}_bytes"] or report[capacity] is not None
    }
    drawn = [
        Bar(_PLACES[place], size, format_bytes(size) + _of(capacity), capacity)
        for place, (size, capacity, _) in used.items()
    ]
    rows = [
        (
            _PLACES[place],
            f"{size:,}",
            format_bytes(size),
            None if capacity is None else format_bytes(capacity),
            _FITS[fits],
        )
        for place, (size, capacity, fits) in used.items()
    ]
    whose = f"One of {plural(report['tp'], 'rank')}. " if several else ""
    homes = _homes(report)
    headings = ("place", "bytes", "that is", "there is", "fits")
    return section(
        "Bytes by place",
        figure(
            bars(drawn, "Bytes by place"),
            f"{whose}Frames: what there is. Tables on: {_PLACES[report['tables']]}.",
            table(headings, rows, label="Bytes by place", left=("fits",)),
        ),
        *([Html("<h3>With the tables elsewhere</h3>"), homes] if homes else []),
    )


def _of(capacity: int | None) -> str:
    return "" if capacity is None else f" of {format_bytes(capacity)}"


def _homes(report: Mapping[str, Any]) -> Html | None:
    homes = report["homes"] if report["totals"]["table_bytes"] else []
    if not homes:
        return None
    rows = [
        (
            _PLACES[home["tables"]],
            *(format_bytes(home[f"rank_{place}_bytes"]) for place in _PLACES),
            _FITS[home["fits"]],
        )
        for home in homes
    ]
    headings = ("tables on", *_PLACES.values(), "fits")
    return table(headings, rows, label="Bytes by place of the tables", left=("fits",))


def _parts(report: Mapping[str, Any]) -> Html:
    totals, several = report["totals"], report["tp"] > 1
    rows = [
        (
            row["part"],
            None if row["params"] is None else f"{row['params']:,}",
            f"{row['bytes']:,}",
            format_bytes(row["bytes"]),
            *([format_bytes(row["rank_bytes"])] if several else []),
            row["kind"],
            _PLACES[row["place"]],
        )
        for row in report["rows"]
    ]
    params = totals["engram_params"] + (totals["base_params"] or 0)
    ranks = sum(totals[f"rank_{place}_bytes"] for place in _PLACES)
    size = totals["total_bytes"]
    total = (
        *(Html("<b>total</b>"), f"{params:,}", f"{size:,}", format_bytes(size)),
        *([format_bytes(ranks)] if several else []),
        *("", ""),
    )
    rank = ["one rank"] if several else []
    headings = ("part", "parameters", "bytes", "that is", *rank, "kind", "place")
    return section(
        "Parts",
        table(headings, [*rows, total], label="Parts", left=("kind", "place")),
        note="Exact: counted. Nominal: by a stated convention. Estimated: see the assumptions.",
    )


def _layers(report: Mapping[str, Any]) -> Html:
    rows = [
        (
            "all layers" if it["layer_id"] is None else f"layer {it['layer_id']}",
            f"{it['rows']:,}",
            f"{it['hash_rows']:,}",
            f"{it['table_params']:,}",
            f"{it['dense_params']:,}",
            format_bytes(it["table_bytes"]),
        )
        for it in report["layers"]
    ]
    headings = (
        *("layer", "rows", "rows hashed to", "parameters of tables", "dense parameters"),
        "bytes of tables",
    )
    note = "Rows are as stored; those hashed to are without padding."
    return section("Layers", table(headings, rows, label="Layers with a memory"), note=note)


def _training(report: Mapping[str, Any]) -> Html:
    rows = [
        (
            it["optimizer"],
            format_bytes(it["table_bytes"]),
            format_bytes(it["table_state_bytes"]),
            format_bytes(it["total_bytes"]),
            *([format_bytes(it["rank_bytes"])] if report["tp"] > 1 else []),
            it["kind"],
        )
        for it in report["training"]
    ]
    rank = ["one rank"] if report["tp"] > 1 else []
    headings = ("optimizer", "tables", "their state", "one device", *rank, "kind")
    shown = table(headings, rows, label="Bytes of training by optimizer", left=("kind",))
    note = "Weights, gradients and optimizer state, without activations."
    return section("Training, by optimizer", shown, note=note)

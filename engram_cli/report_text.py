"""Text output of `engram report`: parts, reads, places of the tables, training, assumptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from engram.units import format_bytes, plural
from engram_cli.output import Shown, Table

_PLACES = ("gpu", "cpu", "disk")
_FITS = {True: "yes", False: "no", None: "unknown"}
_FOLDED = 5  # equal parts of this many layers share a line
_KINDS = {
    "config": "a config",
    "attached": "a model with a memory",
    "adapter": "a memory without its base",
    "released": "a released checkpoint",
}


def show(payload: dict[str, Any]) -> Shown:
    """Describe a report."""
    dtype, optimizer = payload["table_dtype"] or "several dtypes", payload["optimizer"]
    yield (
        f"{payload['target']} is {_KINDS[payload['target_kind']]}.\n"
        f"Layout {payload['layout']}: {payload['title']}.\n"
        f"Counted for {payload['mode']}{f' with {optimizer}' if optimizer else ''}, tables in "
        f"{dtype} on the {payload['tables']}.\n"
    )
    yield _parts(payload)
    yield from _reads(payload["reads"])
    yield ""
    yield _homes(payload)
    if payload["mode"] == "training":
        yield ""
        yield _training(payload)
    yield ""
    yield from _fits(payload)
    yield Table([("-", assumption) for assumption in payload["assumptions"]], is_dense=True)


def _parts(payload: dict[str, Any]) -> Table:
    totals, several = payload["totals"], payload["tp"] > 1
    total = {
        **{"part": "total", "kind": "", "place": "", "bytes": totals["total_bytes"]},
        "params": totals["engram_params"] + (totals["base_params"] or 0),
        "rank_bytes": sum(totals[f"rank_{place}_bytes"] for place in _PLACES),
    }
    rows = [
        (
            row["part"],
            "" if row["params"] is None else f"{row['params']:,}",
            format_bytes(row["bytes"]),
            *([format_bytes(row["rank_bytes"])] if several else []),
            row["kind"],
            row["place"],
        )
        for row in (*_folded(payload["rows"]), total)
    ]
    rank = ["a rank's bytes"] if several else []
    headings = ("part", "parameters", "bytes", *rank, "kind", "place")
    return Table(rows, headings, left=("part", "kind", "place"))


def _folded(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Join equal parts of many layers into one line."""
    names: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        _, _, part = row["part"].removeprefix("layers.").partition(".")
        is_layer = row["part"].startswith("layers.") and row["params"] is not None
        names.setdefault(f"layers.*.{part}" if is_layer else row["part"], []).append(row)
    if max(map(len, names.values())) < _FOLDED:
        yield from rows
        return
    for name, same in names.items():
        for _, run in groupby(same, key=lambda row: (row["params"], row["kind"], row["place"])):
            parts = list(run)
            if len(parts) < _FOLDED:
                yield from parts
                continue
            keys = ("params", "bytes", "rank_bytes")
            sums = {key: sum(row[key] for row in parts) for key in keys}
            yield {**parts[0], **sums, "part": f"{name} ({len(parts)} layers)"}


def _reads(reads: dict[str, Any]) -> Shown:
    rows, in_layer = reads["rows_per_token"], reads["rows_per_token_and_layer"]
    several = f"{plural(in_layer, 'row')} a layer, {rows} in all"
    yield (
        f"\nReads per token: {several if rows != in_layer else plural(rows, 'row')} = "
        f"{reads['bytes_per_token']:,} bytes"
    )
    pages, rate = reads["disk_pages_per_token"], reads["rate"]
    if pages:
        yield (
            f"From disk: {plural(reads['disk_reads_per_token'], 'read')}, {pages['mean']:.1f} "
            f"pages of 4 KiB on average ({pages['least']} to {pages['most']}, {pages['kind']})"
        )
    if rate:
        yield (
            f"At {rate['tokens_per_second']:,} tokens/s: {rate['rows_per_second']:,} rows/s = "
            f"{format_bytes(rate['bytes_per_second'])}/s; from disk {rate['iops']:,} IOPS, "
            f"{format_bytes(rate['disk_bytes_per_second'])}/s of pages"
        )


def _homes(payload: dict[str, Any]) -> Table:
    homes, whose = payload["homes"], "a rank's " if payload["tp"] > 1 else ""
    judged = any(home[key] is not None for home in homes for key in ("fits_device", "fits_host"))
    rows = [
        (
            home["tables"],
            *(format_bytes(home[f"rank_{place}_bytes"]) for place in _PLACES),
            *([_FITS[home["fits"]]] if judged else []),
        )
        for home in homes
    ]
    headings = ("tables on", *(whose + place for place in _PLACES), *(["fits"] if judged else []))
    return Table(rows, headings, left=("tables on", "fits"))


def _training(payload: dict[str, Any]) -> Table:
    headings = {
        **{"table_bytes": "tables", "table_state_bytes": "their state"},
        **{"total_bytes": "one device"},
        **({"rank_bytes": "each rank"} if payload["tp"] > 1 else {}),
    }
    rows = [
        (row["optimizer"], *(format_bytes(row[key]) for key in headings), row["kind"])
        for row in payload["training"]
    ]
    return Table(rows, ("optimizer", *headings.values(), "kind"), left=("optimizer", "kind"))


def _fits(payload: dict[str, Any]) -> Shown:
    totals = payload["totals"]
    if payload["fits_device"] is not None:
        yield (
            f"Fits a device of {format_bytes(payload['device_memory_bytes'])}: "
            f"{_FITS[payload['fits_device']]}, {format_bytes(totals['rank_gpu_bytes'])} "
            f"on the device{'' if totals['base_params'] else ', without the base model'}"
        )
    if payload["fits_host"] is not None:
        host_bytes = payload["tp"] * totals["rank_cpu_bytes"]
        yield (
            f"Fits a host of {format_bytes(payload['host_memory_bytes'])}: "
            f"{_FITS[payload['fits_host']]}, {format_bytes(host_bytes)} on the host"
        )

"""Text output of `engram report`: parts, reads, places of the tables, training, assumptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, plural

if TYPE_CHECKING:
    from rich.console import Console

_JUDGED = ("fits_device", "fits_host")
_FITS = {True: "yes", False: "no", None: "unknown"}
_FOLDED = 5  # equal parts of this many layers share a line
_KINDS = {
    "config": "a config",
    "attached": "a model with a memory",
    "adapter": "a memory without its base",
    "released": "a released checkpoint",
}


def show(console: Console, payload: dict[str, Any]) -> None:
    """Print a report."""
    dtype, optimizer = payload["table_dtype"] or "several dtypes", payload["optimizer"]
    console.print(
        f"{payload['target']} is {_KINDS[payload['target_kind']]}.\n"
        f"Layout {payload['layout']}: {payload['title']}.\n"
        f"Counted for {payload['mode']}{f' with {optimizer}' if optimizer else ''}, tables in "
        f"{dtype} on the {payload['tables']}.\n"
    )
    _show_parts(console, payload)
    _show_reads(console, payload["reads"])
    _show_homes(console, payload)
    if payload["mode"] == "training":
        _show_training(console, payload)
    _show_fits(console, payload)
    _show_assumptions(console, payload["assumptions"])


def _show_parts(console: Console, payload: dict[str, Any]) -> None:
    from rich.table import Table

    totals, ranks = payload["totals"], payload["tp"]
    table = Table("part", box=None, pad_edge=False)
    for heading in ("parameters", "bytes", *(["a rank's bytes"] if ranks > 1 else [])):
        table.add_column(heading, justify="right")
    table.add_column("kind")
    table.add_column("place")
    for row in _folded(payload["rows"]):
        params = "" if row["params"] is None else f"{row['params']:,}"
        rank = [format_bytes(row["rank_bytes"])] if ranks > 1 else []
        table.add_row(
            row["part"], params, format_bytes(row["bytes"]), *rank, row["kind"], row["place"]
        )
    total_params = totals["engram_params"] + (totals["base_params"] or 0)
    rank_bytes = sum(totals[f"rank_{place}_bytes"] for place in ("gpu", "cpu", "disk"))
    rank = [format_bytes(rank_bytes)] if ranks > 1 else []
    table.add_row("total", f"{total_params:,}", format_bytes(totals["total_bytes"]), *rank, "", "")
    console.print(table)


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


def _show_reads(console: Console, reads: dict[str, Any]) -> None:
    rows, in_layer = reads["rows_per_token"], reads["rows_per_token_and_layer"]
    several = f"{plural(in_layer, 'row')} a layer, {rows} in all"
    alone = plural(rows, "row")
    console.print(
        f"\nReads per token: {several if rows != in_layer else alone} = "
        f"{reads['bytes_per_token']:,} bytes"
    )
    pages = reads["disk_pages_per_token"]
    if pages:
        count = reads["disk_reads_per_token"]
        console.print(
            f"From disk: {plural(count, 'read')}, {pages['mean']:.1f} pages of 4 KiB "
            f"on average ({pages['least']} to {pages['most']}, {pages['kind']})"
        )
    rate = reads["rate"]
    if rate:
        console.print(
            f"At {rate['tokens_per_second']:,} tokens/s: {rate['rows_per_second']:,} rows/s = "
            f"{format_bytes(rate['bytes_per_second'])}/s; from disk {rate['iops']:,} IOPS, "
            f"{format_bytes(rate['disk_bytes_per_second'])}/s of pages"
        )


def _show_homes(console: Console, payload: dict[str, Any]) -> None:
    from rich.table import Table

    judged = any(home[key] is not None for home in payload["homes"] for key in _JUDGED)
    table = Table("tables on", box=None, pad_edge=False)
    whose = "a rank's " if payload["tp"] > 1 else ""
    for heading in (f"{whose}gpu", f"{whose}cpu", f"{whose}disk"):
        table.add_column(heading, justify="right")
    if judged:
        table.add_column("fits")
    for home in payload["homes"]:
        sizes = [format_bytes(home[f"rank_{place}_bytes"]) for place in ("gpu", "cpu", "disk")]
        table.add_row(home["tables"], *sizes, *([_FITS[home["fits"]]] if judged else []))
    console.print()
    console.print(table)


def _show_training(console: Console, payload: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("optimizer", box=None, pad_edge=False)
    ranks = payload["tp"]
    for heading in (
        *("tables", "their state", "one device"),
        *(["each rank"] if ranks > 1 else []),
    ):
        table.add_column(heading, justify="right")
    table.add_column("kind")
    for row in payload["training"]:
        keys = ["table_bytes", "table_state_bytes", "total_bytes"]
        keys += ["rank_bytes"] if ranks > 1 else []
        table.add_row(row["optimizer"], *(format_bytes(row[key]) for key in keys), row["kind"])
    console.print()
    console.print(table)


def _show_fits(console: Console, payload: dict[str, Any]) -> None:
    totals = payload["totals"]
    console.print()
    if payload["fits_device"] is not None:
        console.print(
            f"Fits a device of {format_bytes(payload['device_memory_bytes'])}: "
            f"{_FITS[payload['fits_device']]}, {format_bytes(totals['rank_gpu_bytes'])} "
            f"on the device{'' if totals['base_params'] else ', without the base model'}"
        )
    if payload["fits_host"] is not None:
        host_bytes = payload["tp"] * totals["rank_cpu_bytes"]
        console.print(
            f"Fits a host of {format_bytes(payload['host_memory_bytes'])}: "
            f"{_FITS[payload['fits_host']]}, {format_bytes(host_bytes)} on the host"
        )


def _show_assumptions(console: Console, assumptions: Sequence[str]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for assumption in assumptions:
        table.add_row("-", assumption)
    console.print(table)

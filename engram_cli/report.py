"""`engram report`: parameters and bytes of a config, a template or a checkpoint with a memory."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer

import engram
from engram.sizing.run_options import Mode, Optimizer, Place, ReportOptions
from engram.units import format_bytes, plural
from engram_cli.options import (
    OUTPUT,
    ModelOption,
    RevisionOption,
    TableDtypeOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.values import note_folder, read_bytes

_PLACES = ("gpu", "cpu", "disk")
_FITS = {True: "yes", False: "no", None: "unknown"}
_FOLDED = 5  # equal parts of this many layers share a line
_KINDS = {
    "config": "a config",
    "attached": "a model with a memory",
    "adapter": "a memory without its base",
    "released": "a released checkpoint",
}
_REPORT = {
    "mode": Annotated[
        Mode,
        typer.Option(help="Weights alone, or with gradients and optimizer state."),
    ],
    "optimizer": Annotated[
        Optimizer,
        typer.Option(help="In training; the last two are for tables, with adam for the rest."),
    ],
    "tables": Annotated[Place, typer.Option(help="Where the tables are.")],
    "tp": Annotated[int, typer.Option(min=1, help="Devices that share the rows of each table.")],
    "device_memory": Annotated[
        int | None,
        typer.Option(
            metavar="SIZE", parser=read_bytes, help="Memory of one device, as 80GiB: does it fit?"
        ),
    ],
    "host_memory": Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=read_bytes,
            help="Memory of the host of all devices, as 1TiB: does it fit?",
        ),
    ],
    "tokens_per_second": Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=1, help="Speed: reads and bytes a second that it takes."),
    ],
    "dtype": TableDtypeOption,
    "tokens_per_step": Annotated[
        int,
        typer.Option(min=1, help="Tokens of a training step on a device, for sparse gradients."),
    ],
    "freeze_base": Annotated[
        bool, typer.Option("--freeze-base", help="In training: only the memory is trained.")
    ],
}


@taking(options=_REPORT, out=OUTPUT)
def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Config file, template name, folder or safetensors file of a checkpoint with a "
            "memory, or hub id of one.",
        ),
    ],
    model: ModelOption = None,
    *,
    options: ReportOptions,
    revision: RevisionOption = None,
    out: Output,
) -> None:
    """Count parameters and bytes by layer and part, reads per token, and say whether they fit.

    Every line is exact, nominal (a stated convention) or estimated. Of a checkpoint only config and
    headers are read, on the hub too: attached memories and adapters, DeepSeek-V4.1, Qwen's
    per-layer n-gram embedding, LongCat, Gemma 3n and 4, the reference demo's state dict. Exits with
    5 when --device-memory or --host-memory is too small.

    Examples:
        $ engram report engram-27b
        $ engram report deepseek-v4.1-flash --tp 4 --device-memory 80GiB
        $ engram report deepseek-v4.1-flash --tables disk --tokens-per-second 10000
        $ engram report gpt2 --model gpt2 --mode training --optimizer rowwise-adagrad --json
    """
    note_folder(out, target)
    found = engram.report(target, model, options, revision=revision)
    answer = found.to_dict()
    out.result(answer, _show(answer))
    if found.fits is False:
        raise typer.Exit(5)


def _show(payload: dict[str, Any]) -> Shown:
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
        many = re.sub(r"^layers\.[^.]*\.?", "layers.*.", row["part"])
        names.setdefault(row["part"] if row["params"] is None else many, []).append(row)
    if max(map(len, names.values())) < _FOLDED:
        yield from rows
        return
    for name, same in names.items():
        for _, run in groupby(same, key=lambda row: (row["params"], row["kind"], row["place"])):
            parts = list(run)
            if len(parts) < _FOLDED:
                yield from parts
            else:
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

"""`engram report`: parameters and bytes of a config, a template or a checkpoint with a memory."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer

import engram
from engram.checkpoints.report.report import Report
from engram.errors import UsageError
from engram.sizing.run_options import ReportOptions
from engram.units import format_bytes, plural
from engram_cli.gguf_text import show_gguf
from engram_cli.machine_text import machine, parts
from engram_cli.options import (
    OUTPUT,
    HtmlOption,
    ModelOption,
    OverwriteOption,
    PlotOption,
    RevisionOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.pictures import check_html, check_plot, command_line, write_html, write_plot
from engram_cli.plain_tables import as_csv, as_markdown
from engram_cli.run_options import RUN
from engram_cli.values import note_folder

_PLACES = ("gpu", "cpu", "disk")
_FITS = {True: "yes", False: "no", None: "unknown"}
_FOLDED = 5  # equal parts of this many layers share a line
_KINDS = {
    "config": "a config",
    "attached": "a model with a memory",
    "adapter": "a memory without its base",
    "released": "a released checkpoint",
    "gguf": "a GGUF file with a memory",
    "base": "a base model without a memory",
}


@taking(options=RUN, out=OUTPUT)
def report(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Config file, template name, folder or safetensors file of a checkpoint with a "
            "memory, or hub id of one; a GGUF file, on the hub organisation/name/file.gguf; or a "
            "base model.",
        ),
    ],
    model: ModelOption = None,
    *,
    options: ReportOptions,
    revision: RevisionOption = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="The answer and the totals, without the parts.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown, for documents.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The parts alone, as CSV.")] = False,
    plot: PlotOption = None,
    html: HtmlOption = None,
    overwrite: OverwriteOption = False,
    out: Output,
) -> None:
    """Say whether a memory fits a machine, and count its parameters, bytes and reads by part.

    Every line is exact, nominal (a stated convention) or estimated. Of a checkpoint only config and
    headers are read, on the hub too: attached memories and adapters, DeepSeek-V4.1, Qwen's
    per-layer n-gram embedding, LongCat, Gemma 3n and 4, the reference demo's state dict. Of GGUF
    files, whole or in parts, it names the dialect of the engine, the encoding and place of every
    table, and the constants that are missing. A base model of the catalogue is counted alone. Exits
    with 5 when something that is given is too small.

    Examples:
        $ engram report engram-27b
        $ engram report deepseek-v4.1-flash --tp 4 --device-memory 80GiB
        $ engram report deepseek-v4.1-flash --tables disk --tokens-per-second 10000
        $ engram report gpt2 --model gpt2 --mode training --optimizer rowwise-adagrad --json
        $ engram report gpt2 --mode training --optimizer sparse-adam --tables disk --save-every 50
        $ engram report engram-27b --base-bytes 54GB --device-memory 80GB --summary
        $ engram report engram-27b --markdown
        $ engram report engram-27b --plot report.png
        $ engram report engram-27b --html report.html
        $ engram report model.gguf
    """
    forms = {"--json": out.json, "--markdown": markdown, "--csv": csv}
    asked = [flag for flag, is_asked in forms.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other.", "Give one of them.")
    check_plot(plot, overwrite)
    check_html(html, overwrite)
    note_folder(out, target)
    found = engram.report(target, model, options, revision=revision)
    answer = found.to_dict()
    if plot is not None:
        answer["homes_by_part"] = found.homes_by_part()
    if csv:
        out.result(answer, as_csv(answer["rows"]), wrap=False)
    elif markdown:
        out.result(answer, as_markdown(_show(found, answer, summary)), wrap=False)
    else:
        out.result(answer, _show(found, answer, summary))
    if plot is not None:
        from engram.pictures.report_plot import plot_report

        source = f"{target} is {_KINDS[found.target.kind]}, counted for {options.mode}."
        write_plot(out, ctx, plot, plot_report, answer, source, overwrite=overwrite)
    if html is not None:
        from engram.pictures.report_page import report_html

        text = report_html(answer, command=command_line(ctx))
        write_html(out, html, text, overwrite=overwrite)
    if found.fits is False:
        raise typer.Exit(5)


def _show(found: Report, payload: dict[str, Any], summary: bool) -> Shown:
    dtype, optimizer = payload["table_dtype"] or "several dtypes", payload["optimizer"]
    use, has_memory = found.use, payload["target_kind"] != "base"
    yield from machine(use, list(use.resources.values()), use.fits)
    named = f"Layout {payload['layout']}" if has_memory else "Family"
    has_tables = payload["totals"]["table_bytes"] > 0
    tables = f", tables in {dtype} on the {payload['tables']}" if has_tables else ""
    yield (
        f"\n{payload['target']} is {_KINDS[payload['target_kind']]}.\n"
        f"{named}: {payload['title']}.\n"
        f"Counted for {payload['mode']}{f' with {optimizer}' if optimizer else ''}{tables}.\n"
    )
    yield parts(use) if summary else _parts(payload)
    if payload["gguf"] is not None:
        yield from show_gguf(payload["gguf"])
    if has_memory:
        yield from _reads(payload)
    if has_memory and not summary:
        yield ""
        yield _homes(payload)
        if payload["mode"] == "training":
            yield ""
            yield _training(payload)
    yield ""
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
    """Join the norms of a layer, and equal parts of many layers, into one line."""
    rows = list(_joined_norms(rows))
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
                yield _sum(parts, f"{name} ({len(parts)} layers)")


def _joined_norms(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    def layer_of_norm(row: dict[str, Any]) -> str:
        found = re.fullmatch(r"(layers\.[^.]*)\..*norm.*", row["part"])
        return found[1] if found and row["params"] is not None else ""

    by_layer: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if layer := layer_of_norm(row):
            by_layer.setdefault(layer, []).append(row)
    for row in rows:
        norms = by_layer.get(layer_of_norm(row), [row])
        if row is norms[0]:
            yield row if len(norms) == 1 else _sum(norms, f"{layer_of_norm(row)}.norms")


def _sum(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    sums = {key: sum(row[key] for row in rows) for key in ("params", "bytes", "rank_bytes")}
    return {**rows[0], **sums, "part": name}


def _reads(payload: dict[str, Any]) -> Shown:
    reads = payload["reads"]
    rows, in_layer = reads["rows_per_token"], reads["rows_per_token_and_layer"]
    several = f"{plural(in_layer, 'row')} a layer, {rows} in all"
    yield (
        f"\nReads per token: {several if rows != in_layer else plural(rows, 'row')} = "
        f"{reads['bytes_per_token']:,} bytes"
    )
    pages, rate = reads["disk_pages_per_token"], reads["rate"]
    if pages:
        trained_there = payload["mode"] == "training" and payload["tables"] == "disk"
        state = ", with optimizer state" if trained_there else ""
        yield (
            f"From disk{state}: {plural(reads['disk_reads_per_token'], 'read')}, "
            f"{pages['mean']:.1f} pages of 4 KiB on average "
            f"({pages['least']} to {pages['most']}, {pages['kind']})"
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

"""`engram config`: list the templates, write a config, show it with what follows, check files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engram.config import EngramConfig
from engram.config_file import dump_config, read_config, write_config
from engram.errors import (
    ConfigError,
    DoesNotFitError,
    InputError,
    MissingFileError,
    UsageError,
)
from engram.templates import find_config, template_names, template_path, template_title
from engram_cli.help import Command, new_app
from engram_cli.options import (
    DryRunOption,
    JsonOption,
    ModelOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)
from engram_cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "engram.config/1"

config = new_app(
    help="""List the templates, write a config, show what follows from one, check files.

    Examples:
        $ engram config ls
        $ engram config new gpt2 -o engram.yaml
        $ engram config check engram.yaml
    """
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="FILE|TEMPLATE", help="Config file, or name of a template.")
]


@config.command("ls", cls=Command)
def ls(
    json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = False
) -> None:
    """List the templates, one line each.

    Examples:
        $ engram config ls
        $ engram config ls --json
    """
    templates = [
        {"name": name, "title": template_title(name), "path": str(template_path(name))}
        for name in template_names()
    ]

    def show(console: Console) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for template in templates:
            table.add_row(template["name"], template["title"])
        console.print(table)

    out = Output(json=json, quiet=quiet, verbose=verbose)
    out.result({"schema": SCHEMA, "templates": templates}, show)
    out.note("Next: engram config show NAME, or engram config new NAME -o FILE.")


@config.command("new", cls=Command)
def new(
    template: Annotated[str, typer.Argument(help="Name of the template to start from.")],
    model: ModelOption = None,
    k: Annotated[
        float | None,
        typer.Option("--k", help="Rows per ORDER as this multiple of the vocabulary."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT",
            help="Parameters for the memory, such as 40M: takes the largest whole k that fits.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a config key, the value as in YAML. Repeatable."
        ),
    ] = None,
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a config, each key explained: a template, fitted to a model, sized, or changed.

    With --model, hidden size, streams, vocabulary, tokenizer and token ids are the model's, the
    memory is read in its layers 1 and half the depth, and the template's k is kept unless --k or
    --budget says otherwise. A model without a pad token gets its end-of-text token.

    Examples:
        $ engram config new gpt2
        $ engram config new gpt2 --k 5 --set layer_ids=[1,5] -o engram.yaml
        $ engram config new llama --model llama-3.2-3b --budget 400M --json
    """
    from engram.new_config import new_config

    out = Output(json=json, quiet=quiet, verbose=verbose)
    try:
        made = new_config(
            template,
            backbone=_backbone(model),
            k=k,
            budget_params=_count(budget),
            settings=_settings(settings or []),
        )
    except DoesNotFitError as error:
        if json:
            answer = {"schema": SCHEMA, "template": template, "fits": False, **error.details}
            out.result(answer, lambda _: None)
        raise
    title = f"From template {template}" + (f", for {model}" if model else "")
    if output is not None:
        _check_place(output, overwrite)
        if not dry_run:
            write_config(output, made, title=title)
    is_written = output is not None and not dry_run
    payload = {
        "schema": SCHEMA,
        "template": template,
        "config": made.to_dict(),
        "derived": derived(made),
        "output": None if output is None else str(output),
        "written": is_written,
    }
    if is_written:
        out.result(payload, lambda console: console.print(f"Wrote {output}", soft_wrap=True))
        out.note(f"Next: engram report {output}")
    else:
        text = dump_config(made, title=title)
        out.result(payload, lambda console: console.print(text, end="", soft_wrap=True))
        if output is not None:
            out.note(f"{output} would be written.")


@config.command("show", cls=Command)
def show(
    source: ConfigArgument,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show a config with every default filled in, and the numbers that follow from it.

    Examples:
        $ engram config show gpt2
        $ engram config show config.yaml --json
    """
    path = find_config(source)
    found = read_config(path)
    numbers = derived(found)

    def show_config(console: Console) -> None:
        console.print(dump_config(found, title=str(source)), soft_wrap=True)
        _show_derived(console, numbers)

    Output(json=json, quiet=quiet, verbose=verbose).result(
        {"schema": SCHEMA, "path": str(path), "config": found.to_dict(), "derived": numbers},
        show_config,
    )


@config.command("check", cls=Command)
def check(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE|TEMPLATE...", help="Config files, or templates.")
    ],
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check configs: every problem with its file, line, key and what would be right.

    Ends with exit code 3 when there is any.

    Examples:
        $ engram config check config.yaml
        $ engram config check gpt2 demo --json
    """
    files = [_check(find_config(source)) for source in sources]
    is_ok = all(file["ok"] for file in files)

    def show_verdicts(console: Console) -> None:
        for file in files:
            if file["ok"]:
                console.print(f"{file['path']}: ok", soft_wrap=True)
            for line in file["lines"]:
                console.print(line, soft_wrap=True)

    shown = [{key: value for key, value in file.items() if key != "lines"} for file in files]
    Output(json=json, quiet=quiet, verbose=verbose).result(
        {"schema": SCHEMA, "ok": is_ok, "files": shown}, show_verdicts
    )
    if not is_ok:
        raise typer.Exit(3)


def derived(config: EngramConfig) -> dict[str, Any]:
    """Return what follows from a config: exact rows, widths, and what one token reads."""
    from engram.addressing.primes import head_primes, stored_rows
    from engram.units import row_bytes

    rows_per_token = config.n_columns * len(config.layer_ids)
    return {
        "k": [size / config.engram_vocab_size for size in config.engram_table_size],
        "engram_table_size": config.engram_table_size,
        "rows_per_head": config.rows_per_head,
        "row_width": config.row_width,
        "memory_width": config.memory_width,
        "layers": [
            {"layer_id": layer_id, "rows": stored_rows(primes, config.row_multiple)}
            for layer_id, primes in head_primes(config).items()
        ],
        "rows_per_token": rows_per_token,
        "bytes_per_token": rows_per_token * row_bytes(config.row_width, config.table_dtype),
    }


def _show_derived(console: Console, numbers: dict[str, Any]) -> None:
    from rich.table import Table

    def each(values: list[Any]) -> str:
        return ", ".join(f"{value:,}" for value in values)

    rows = {
        "k": f"{', '.join(f'{k:.6g}' for k in numbers['k'])} times the vocabulary per order",
        "rows per ORDER": f"{each(numbers['engram_table_size'])} (engram_table_size)",
        "rows per HEAD": f"{each(numbers['rows_per_head'])} (rounded up to primes)",
        "row width": f"{numbers['row_width']:,} columns",
        "memory width": f"{numbers['memory_width']:,} values a token and layer",
        **{
            f"rows of layer {layer['layer_id']}": f"{layer['rows']:,} stored"
            for layer in numbers["layers"]
        },
        "reads per token": f"{numbers['rows_per_token']:,} rows, {numbers['bytes_per_token']:,} B",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row("#", name, value)
    console.print(table)


def _backbone(model: str | None) -> Any:
    from engram.backbone import load_backbone

    return None if model is None else load_backbone(model)


def _count(budget: str | None) -> int | None:
    from engram.units import parse_count

    return None if budget is None else parse_count(budget)


def _settings(pairs: list[str]) -> dict[str, Any]:
    from engram.strict_yaml import parse_value

    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: not of the form KEY=VALUE.", "As in --set seed=1.")
        if key in settings:
            raise UsageError(f"--set {key}: given twice.")
        try:
            settings[key] = parse_value(text)
        except ValueError as error:
            raise UsageError(f"--set {pair}: the value is not YAML: {error}.") from None
    return settings


def _check_place(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise InputError(f"{output} is a folder.", "Give the path of a file.", path=str(output))
    if output.exists() and not overwrite:
        raise InputError(f"{output} is already there.", "Give --overwrite to replace it.")
    if not output.parent.is_dir():
        raise MissingFileError(f"{output.parent}: no such folder.", "Make it first.")


def _check(path: Path) -> dict[str, Any]:
    problems: list[Any] = []
    lines: list[str] = []
    try:
        read_config(path)
    except ConfigError as error:
        problems, lines = error.details["problems"], error.message.splitlines()
    return {"path": str(path), "ok": not problems, "problems": problems, "lines": lines}

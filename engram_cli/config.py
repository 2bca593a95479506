"""`engram config`: list templates; write, show, check and export configs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

import engram
from engram.config.config_file import dump_config, write_config
from engram.config.templates import template_names, template_path, template_title
from engram.engines.training_stacks import STACKS
from engram.errors import UsageError
from engram.storage.files import check_file
from engram_cli.errors import failure_of
from engram_cli.help import Command, new_app
from engram_cli.options import (
    OUTPUT,
    BudgetOption,
    DryRunOption,
    KOption,
    ModelOption,
    OverwriteOption,
    TokenizerOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.values import blaming, note_folder

if TYPE_CHECKING:
    from engram.backbone import Backbone
    from engram.engines.stack_configs import ExportedConfig
    from engram.sizing.check_config import ConfigVerdict

SCHEMA = "engram.config/1"
# By config key: the options that decide it; --set decides any.
_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "k": ("k",),
    "engram_table_size": ("k", "budget"),
    "layer_ids": (),
}
StackName: TypeAlias = Literal[*STACKS]  # type: ignore[valid-type]

config = new_app(
    help="""List the templates, write a config, show what follows from one, check files, export.

    Examples:
        $ engram config ls
        $ engram config new gpt2 -o engram.yaml
        $ engram config check engram.yaml
        $ engram config export demo --to megatron
    """
)


@config.command("ls", cls=Command)
@taking(out=OUTPUT)
def ls(*, out: Output) -> None:
    """List the templates, one line each.

    Examples:
        $ engram config ls
        $ engram config ls --json
    """
    templates = [
        {"name": name, "title": template_title(name), "path": str(template_path(name))}
        for name in template_names()
    ]
    rows = [(template["name"], template["title"]) for template in templates]
    out.result({"schema": SCHEMA, "templates": templates}, [Table(rows)])
    out.next_step("engram config show NAME, or engram config new NAME -o FILE")


@config.command("new", cls=Command)
@taking(out=OUTPUT)
def new(
    ctx: typer.Context,
    template: Annotated[
        str | None,
        typer.Argument(help="Name of the template to start from. Default: the shape for --model."),
    ] = None,
    model: ModelOption = None,
    k: KOption = None,
    budget: BudgetOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a config key, the value as in YAML. Repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write the result; - prints it instead."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    *,
    out: Output,
) -> None:
    """Write a config, each key explained: a template, fitted to a model, sized, or changed.

    With --model, hidden size, streams, vocabulary, tokenizer and token ids are the model's, the
    memory is read in its layers 1 and half the depth, and the template's k is kept unless --k says
    otherwise or --budget asks for all rows that fit. Without a template, --model gets a memory of a
    quarter of the whole. A model without a pad token gets its end-of-text token.

    Examples:
        $ engram config new gpt2
        $ engram config new --model llama-3.2-1b -o llama.yaml
        $ engram config new gpt2 --k 5 --set layer_ids=[1,5] -o engram.yaml
        $ engram config new llama --model llama-3.2-3b --budget 400M --json
    """
    file = None if str(output) == "-" else output
    if file is not None:
        check_file(file, overwrite)
    elif output is not None and out.json:
        raise UsageError("-o - and --json both want stdout.", "Give -o a file.")
    backbone = None if model is None else engram.load_backbone(model)
    answer = {"schema": SCHEMA, "template": template}
    with out.answering_no(answer), blaming(ctx, _OPTIONS_OF, general="settings"):
        made = engram.new_config(
            template, model=backbone, k=k, budget=budget, settings=_settings(settings or [])
        )
    for doubt in made.doubts:
        out.warn(doubt)
    start = f"From template {template}" if template else "Sized"
    title = f"{start}{',' if template else ''} for {model}" if model else start
    written = None if dry_run else file
    payload = {
        **answer,
        "config": made.to_dict(),
        "derived": engram.describe_config(made).derived,
        "output": None if output is None else str(output),
        "written": written is not None,
    }
    if written is not None:
        write_config(written, made, title=title, overwrite=overwrite)
        out.result(payload, f"Wrote {written}", wrap=False)
        beside = f" --model {shlex.quote(model)}" if model else ""
        out.next_step(f"engram report {shlex.quote(str(written))}{beside}")
    else:
        out.result(payload, dump_config(made, title=title).rstrip("\n"), wrap=False)
        if file is not None:
            out.note(f"{file} would be written.")


@config.command("show", cls=Command)
@taking(out=OUTPUT)
def show(
    source: Annotated[
        str, typer.Argument(metavar="FILE|TEMPLATE", help="Config file, or name of a template.")
    ],
    *,
    out: Output,
) -> None:
    """Show a config with every default filled in, and the numbers that follow from it.

    Examples:
        $ engram config show gpt2
        $ engram config show config.yaml --json
    """
    note_folder(out, source)
    found = engram.describe_config(source)
    text = dump_config(found.config, title=source)
    out.result(found.to_dict(), [text, _derived(found.derived)], wrap=False)


@config.command("check", cls=Command)
@taking(out=OUTPUT)
def check(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE|TEMPLATE...", help="Config files, or templates.")
    ],
    model: ModelOption = None,
    *,
    out: Output,
) -> None:
    """Check configs: every problem with its file, line, key and what would be right.

    All of them are checked. Ends with exit code 3 when there is a problem, and with 4 when a file
    is not there. With --model, layers, widths and vocabulary are compared with that model's. Tables
    that nobody could store or that any text fills are a warning, and so is a pad that texts hold,
    where the config's tokenizer is a file or folder here.

    Examples:
        $ engram config check config.yaml
        $ engram config check gpt2 --model gpt2
        $ engram config check gpt2 demo --json
    """
    backbone = None if model is None else engram.load_backbone(model)
    verdicts = [_check(source, backbone) for source in sources]
    exit_code = max(verdict.exit_code for verdict in verdicts)
    for source in sources:
        note_folder(out, source)
    for verdict in verdicts:
        for warning in verdict.warnings:
            out.warn(f"{verdict.path}: {warning}")
    payload = {
        "schema": SCHEMA,
        "ok": not exit_code,
        "files": [each.to_dict() for each in verdicts],
    }
    out.result(payload, [verdict.text for verdict in verdicts], wrap=False)
    if exit_code:
        for hint in dict.fromkeys(verdict.hint for verdict in verdicts if verdict.hint):
            out.next_step(hint)
        raise typer.Exit(exit_code)


@config.command("export", cls=Command)
@taking(out=OUTPUT)
def export(
    source: Annotated[
        str, typer.Argument(metavar="FILE|TEMPLATE", help="Config file, or name of a template.")
    ],
    to: Annotated[StackName, typer.Option(help="The stack whose fields are wanted.")],
    tokenizer: TokenizerOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the JSON answer to this file."),
    ] = None,
    overwrite: OverwriteOption = False,
    *,
    out: Output,
) -> None:
    """Write a config as the fields of a training stack, with what that stack cannot express.

    Only fields that the stack has made public are written, and the answer names where they were
    read. A stack without any for the memory's layout is refused, with the reason.

    Examples:
        $ engram config export demo --to megatron
        $ engram config export demo --to maxtext -o maxtext.json
        $ engram config export qwen3.8-flash-next --to transformers --json
    """
    note_folder(out, source)
    exported = engram.export_config(
        source, to, tokenizer=tokenizer, output=output, overwrite=overwrite
    )
    out.result(exported.to_dict(), _exported(exported), wrap=False)


def _exported(found: ExportedConfig) -> Shown:
    """Show the fields as the stack takes them, then what is lost."""
    yield found.text
    stack = found.stack
    yield f"\nFor {stack.title} ({stack.place}): {stack.status}.\nFields as in {stack.source}"
    if found.unexpressed:
        rows = [
            (it.key, "" if it.value is None else str(it.value), it.why) for it in found.unexpressed
        ]
        yield "\nNot expressed:"
        yield Table(rows, ("key", "value", "why"), left=("key", "value", "why"))
    yield from (f"Besides: {need}" for need in found.needs)
    if found.output is not None:
        yield f"Wrote {found.output}"


def _derived(numbers: dict[str, Any]) -> Table:
    """List what follows from a config, as comments of the YAML above it."""
    from engram.config.table_dtype import TableDtype

    def each(key: str) -> str:
        return ", ".join(f"{value:,}" for value in numbers[key])

    dtype = TableDtype(numbers["table_dtype"], numbers["table_dtype_from"])
    rows = {
        "k": f"{', '.join(f'{k:.6g}' for k in numbers['k'])} times the vocabulary per order",
        "rows per ORDER": f"{each('engram_table_size')} (engram_table_size)",
        "rows per HEAD": f"{each('rows_per_head')} (rounded up to primes)",
        "row width": f"{numbers['row_width']:,} columns",
        "memory width": f"{numbers['memory_width']:,} values a token and layer",
        **{
            f"rows of layer {layer['layer_id']}": f"{layer['rows']:,} stored"
            for layer in numbers["layers"]
        },
        "reads per token": f"{numbers['rows_per_token']:,} rows, {numbers['bytes_per_token']:,} B "
        f"in {dtype}",
    }
    return Table([("#", *row) for row in rows.items()])


def _check(source: str, backbone: Backbone | None) -> ConfigVerdict:
    """Check a config; that its file cannot be read is a verdict, too."""
    try:
        return engram.check_config(source, backbone)
    except OSError as error:
        from engram.sizing.check_config import ConfigVerdict

        failure = failure_of(error)
        return ConfigVerdict(
            path=source,
            text=f"{failure.message} {failure.hint}",
            problems=({"key": "", "message": failure.message, "line": None},),
            exit_code=failure.exit_code,
        )


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    from engram.config.strict_yaml import parse_value

    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--set {pair}: not of the form KEY=VALUE.", "As in --set seed=1.")
        if key in settings:
            raise UsageError(f"--set {key}: given twice.")
        try:
            settings[key] = parse_value(text)
        except ValueError as error:
            raise UsageError(f"--set {pair}: the value is not YAML: {error}.") from None
    return settings

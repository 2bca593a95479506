"""`engram config`: list the templates, write a config, show it with what follows, check files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import engram
from engram.config.config_file import dump_config, write_config
from engram.config.templates import template_names, template_path, template_title
from engram.errors import UsageError
from engram.storage.files import check_file
from engram_cli.config_name import note_folder
from engram_cli.config_text import show_derived
from engram_cli.errors import failure_of
from engram_cli.help import Command, new_app
from engram_cli.options import (
    OUTPUT,
    BudgetOption,
    DryRunOption,
    FileOption,
    KOption,
    ModelOption,
    OverwriteOption,
)
from engram_cli.output import Output
from engram_cli.taking import taking
from engram_cli.values import blaming

if TYPE_CHECKING:
    from rich.console import Console

    from engram.backbone import Backbone
    from engram.sizing.check_config import ConfigVerdict

SCHEMA = "engram.config/1"
# By config key: the options that decide it; --set decides any.
_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    **{"k": ("k",), "engram_table_size": ("k", "budget"), "layer_ids": ()},
}

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

    def show(console: Console) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for template in templates:
            table.add_row(template["name"], template["title"])
        console.print(table)

    out.result({"schema": SCHEMA, "templates": templates}, show)
    out.next_step("engram config show NAME, or engram config new NAME -o FILE")


@config.command("new", cls=Command)
@taking(out=OUTPUT)
def new(
    ctx: typer.Context,
    template: Annotated[str, typer.Argument(help="Name of the template to start from.")],
    model: ModelOption = None,
    k: KOption = None,
    budget: BudgetOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a config key, the value as in YAML. Repeatable."
        ),
    ] = None,
    output: FileOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    *,
    out: Output,
) -> None:
    """Write a config, each key explained: a template, fitted to a model, sized, or changed.

    With --model, hidden size, streams, vocabulary, tokenizer and token ids are the model's, the
    memory is read in its layers 1 and half the depth, and the template's k is kept unless --k says
    otherwise or --budget asks for the largest whole k that fits. A model without a pad token gets
    its end-of-text token.

    Examples:
        $ engram config new gpt2
        $ engram config new gpt2 --k 5 --set layer_ids=[1,5] -o engram.yaml
        $ engram config new llama --model llama-3.2-3b --budget 400M --json
    """
    is_printed = output is None or str(output) == "-"
    if output is not None and not is_printed:
        check_file(output, overwrite)
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
    title = f"From template {template}" + (f", for {model}" if model else "")
    is_written = False
    if output is not None and not is_printed and not dry_run:
        write_config(output, made, title=title)
        is_written = True
    payload = {
        **answer,
        "config": made.to_dict(),
        "derived": engram.describe_config(made).derived,
        "output": None if output is None else str(output),
        "written": is_written,
    }
    if is_written:
        out.result(payload, lambda console: console.print(f"Wrote {output}", soft_wrap=True))
        out.next_step(f"engram report {shlex.quote(str(output))}")
    else:
        text = dump_config(made, title=title)
        out.result(payload, lambda console: console.print(text, end="", soft_wrap=True))
        if not is_printed:
            out.note(f"{output} would be written.")


@config.command("show", cls=Command)
@taking(out=OUTPUT)
def show(
    source: ConfigArgument,
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

    def show_config(console: Console) -> None:
        console.print(dump_config(found.config, title=source), soft_wrap=True)
        show_derived(console, found.derived)

    out.result(found.to_dict(), show_config)


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

    def show_verdicts(console: Console) -> None:
        for verdict in verdicts:
            console.print(verdict.text, soft_wrap=True)

    payload = {
        "schema": SCHEMA,
        "ok": not exit_code,
        "files": [each.to_dict() for each in verdicts],
    }
    out.result(payload, show_verdicts)
    if exit_code:
        for hint in dict.fromkeys(verdict.hint for verdict in verdicts if verdict.hint):
            out.next_step(hint)
        raise typer.Exit(exit_code)


def _check(source: str, backbone: Backbone | None) -> ConfigVerdict:
    """Check a config; that its file cannot be read is a verdict, too."""
    try:
        return engram.check_config(source, backbone)
    except OSError as error:
        from engram.sizing.check_config import ConfigVerdict

        failure = failure_of(error)
        problem = {"key": "", "message": failure.message, "line": None}
        text = f"{failure.message} {failure.hint}"
        return ConfigVerdict(
            path=source, text=text, problems=(problem,), exit_code=failure.exit_code
        )


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    from engram.config.strict_yaml import parse_value

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

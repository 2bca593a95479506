"""`engram golden`: test vectors of a memory, for engines to check themselves against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import engram
from engram.errors import UsageError
from engram.units import plural
from engram_cli.options import (
    OUTPUT,
    ConfigOption,
    ExportedTargetArgument,
    OutputOption,
    OverwriteOption,
    TokenizerOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.values import note_folder

if TYPE_CHECKING:
    from engram.engines.golden import ExportedGolden


@taking(out=OUTPUT)
def golden(
    target: ExportedTargetArgument,
    output: OutputOption = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    module: Annotated[
        bool,
        typer.Option("--module", help="Run a small module of the layout, too: takes torch."),
    ] = False,
    overwrite: OverwriteOption = False,
    *,
    out: Output,
) -> None:
    """Write test vectors: token ids, compressed ids, row ids of every layer, rows, outputs.

    Cases are the start of a text, short texts, dead tokens, the largest ids, decoding in pieces,
    tokens taken back, packed documents and ends of text, each with its rule. Of a checkpoint a few
    rows of each table are read, as float32 and bfloat16 bits. examples/engine-c, engine-python and
    engine-js check themselves against the folder.

    Examples:
        $ engram golden ./attached-model -o golden
        $ engram golden config.yaml -o of-a-config --json
    """
    if output is None:
        raise UsageError("golden needs a folder to write.", "Pass -o FOLDER.")
    note_folder(out, target)
    exported = engram.export_golden(
        target, output, config=config, tokenizer=tokenizer, module=module, overwrite=overwrite
    )
    out.result(exported.to_dict(), _show(exported))


def _show(exported: ExportedGolden) -> Shown:
    cases = [
        (case.name, case.rule, len(readings), sum(len(reading.rows) for reading in readings))
        for case, readings in exported.cases
    ]
    yield Table(cases, ("case", "rule", "steps", "tokens"), left=("case", "rule"))
    yield ""
    addresses = exported.memory.addresses
    rows = f", {plural(len(exported.row_values), 'row')} of its tables" * bool(exported.row_values)
    module = ", outputs of a small module" * (exported.module is not None)
    yield (
        f"{exported.row_ids:,} row ids of {exported.memory.name} ({addresses.layout.name}){rows}"
        f"{module} in {exported.output}"
    )
    yield f"fingerprint: {addresses.fingerprint}"

"""`engram verify`: is a checkpoint's memory wired right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engram_cli.options import JsonOption, QuietOption, VerboseOption
from engram_cli.output import Output
from engram_cli.silence import silence_transformers

if TYPE_CHECKING:
    from rich.console import Console

    from engram.checkpoints.verify import Check

SCHEMA = "engram.verify/1"


def verify(
    target: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint that a memory was attached to.")
    ],
    headers_only: Annotated[
        bool,
        typer.Option("--headers-only", help="Load no model: check files, names and constants."),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check a checkpoint's memory: files, constants, tensors, and how the model runs with it.

    With weights, the memory is given random weights in RAM, and the logits of cached, chunked and
    left-padded runs are compared with those of a full one. Exit code 5 when a check fails; what
    could not be checked is no failure.

    Examples:
        $ engram verify ./attached-model
        $ engram verify ./attached-model --headers-only --json
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from engram.checkpoints.verify import verify as run_checks

    if not headers_only:
        silence_transformers()
    checks: list[Check] = []
    for check in run_checks(target, weights=not headers_only):
        checks.append(check)
        out.detail(f"{_verdict(check)}  {check.name}")
    payload = {"schema": SCHEMA, "target": str(target), "ok": _ok(checks)}
    payload["checks"] = [vars(check) for check in checks]
    out.result(payload, lambda console: _show(console, target, checks))
    if not _ok(checks):
        raise typer.Exit(5)


def _ok(checks: list[Check]) -> bool:
    return all(check.ok is not False for check in checks)


def _verdict(check: Check) -> str:
    return {True: "ok", False: "FAILED", None: "not checked"}[check.ok]


def _show(console: Console, target: Path, checks: list[Check]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("check", "result", "detail"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, _verdict(check), check.detail)
    console.print(table)
    failed = sum(check.ok is False for check in checks)
    console.print(f"\n{target}: " + (f"{failed} checks failed." if failed else "wired right."))

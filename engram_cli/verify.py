"""`engram verify`: is a checkpoint's memory wired right?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import engram
from engram.units import plural
from engram_cli.options import (
    OUTPUT,
    LoaderOption,
    RevisionOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, Table, silence_transformers

if TYPE_CHECKING:
    from engram.checks import Check


@taking(out=OUTPUT)
def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Folder or safetensors file of a checkpoint with a memory, or hub id of one; or a "
            "GGUF file, on the hub organisation/name/file.gguf.",
        ),
    ],
    tokenizer: TokenizerOption = None,
    revision: RevisionOption = None,
    headers_only: Annotated[
        bool,
        typer.Option("--headers-only", help="Load no model: check files, names and constants."),
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read every weight file and compare its recorded sha256, too."),
    ] = False,
    engine: LoaderOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="CHECKPOINT",
            help="Of a GGUF file: compare sampled rows with those of the checkpoint that it was "
            "made from: a folder, a safetensors file, or another GGUF file.",
        ),
    ] = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    *,
    out: Output,
) -> None:
    """Check a checkpoint's memory: files, constants, tensors, and how the model runs with it.

    A memory that was attached is given random weights in RAM, and the logits of cached, chunked and
    left-padded runs are compared with those of a full one. Of released checkpoints (DeepSeek-V4.1,
    Qwen's per-layer n-gram embedding, LongCat, Gemma 3n and 4, the reference demo's state dict)
    headers and constants are read, and nothing is loaded. Of GGUF files of engines, constants are
    computed again, and a few rows read: every known failure has a code and a repair. Exit code 5
    when a check fails; what could not be checked does not fail.

    Examples:
        $ engram verify ./attached-model
        $ engram verify ./attached-model --headers-only --json
        $ engram verify model.gguf --target ds4
        $ engram verify model.gguf --source original.gguf
    """
    told: list[Check] = []

    def tell(check: Check) -> None:
        head = [] if told else [("check", "result", "detail")]
        faults = getattr(check, "faults", ())  # of a GGUF file: each on a line of its own
        lines = [f"{it['code']}: {it['message']}. {it['repair']}" for it in faults]
        first, *more = lines or [check.detail]
        rows = [
            # The columns are as wide as the rows to come may need.
            (f"{name:<16}", f"{result:<11}", detail)
            for name, result, detail in [
                *head,
                (check.name, check.verdict, first),
                *(("", "", line) for line in more),
            ]
        ]
        out.part([Table(rows)])
        told.append(check)
        # The last check that needs no model; what is downloaded before shows its bars.
        if check.name == "base config" and not headers_only:
            silence_transformers()

    checks = engram.verify(
        target,
        tokenizer=tokenizer,
        revision=revision,
        headers_only=headers_only,
        full=full,
        engine=engine,
        source=source,
        trust_remote_code=trust_remote_code,
        on_check=tell,
    )
    out.result(checks.to_dict(), _answer(target, told))
    if not checks.ok:
        raise typer.Exit(5)


def _answer(target: str, checks: list[Check]) -> str:
    failed, open_ = (sum(check.ok is verdict for check in checks) for verdict in (False, None))
    answer = f"{plural(failed, 'check')} failed" if failed else "wired right"
    if not failed and any(check.name in ("forward", "finite") and not check.ok for check in checks):
        answer = "nothing wrong found, but the base by itself does not run"
    rest = f"; {plural(open_, 'thing')} could not be checked" if open_ else ""
    return f"\n{target}: {answer}{rest}."

"""`engram attach`: writes a checkpoint with a memory beside its base's untouched weights."""

from __future__ import annotations

import shlex
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engram.errors import UsageError
from engram.units import format_bytes, format_count
from engram_cli.config_name import read_named
from engram_cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    LinkOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    RevisionOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    VerboseOption,
)
from engram_cli.output import Output
from engram_cli.silence import silence_transformers
from engram_cli.values import DTYPES, blaming, read_dtype

if TYPE_CHECKING:
    from rich.console import Console

    from engram.checkpoints.attach.attach_plan import AttachPlan
    from engram.config.table_dtype import TableDtype

SCHEMA = "engram.attach/1"


def attach(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Base: a Hugging Face folder, or a hub id.")
    ],
    config: ConfigOption = None,
    output: OutputOption = None,
    tokenizer: TokenizerOption = None,
    init: Annotated[
        Literal["identity", "paper"],
        typer.Option(help="identity: the model's output stays as it was until trained further."),
    ] = "identity",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            parser=read_dtype,
            help=f"dtype of the tables: {DTYPES}. Default: the config's table_dtype, or the "
            "base's own.",
        ),
    ] = None,
    link: LinkOption = False,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Write the memory alone, to be loaded beside its base."),
    ] = False,
    digests: Annotated[
        bool,
        typer.Option(
            "--digests", help="Record the sha256 of every weight file, for verify --full."
        ),
    ] = False,
    revision: RevisionOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Load both models afterwards and compare their logits."),
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Attach a memory to a checkpoint: a new folder that transformers loads.

    The base's weight files are copied or linked, never decoded; the memory is written beside them
    as a stream, so that memory use does not grow with the model.

    Examples:
        $ engram attach ./model -c config.yaml -o attached
        $ engram attach ./model -c config.yaml -o bf16 --dtype bfloat16 --verify
        $ engram attach ./model -c config.yaml -o planned --link --dry-run --json
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    if verify and adapter:
        raise UsageError(
            "--verify compares whole folders; it does not go with --adapter.",
            "Leave one of them out; engram verify FOLDER checks an adapter's files.",
        )
    if config is None:
        raise UsageError(
            "attach needs the memory's config.",
            "engram config new TEMPLATE --model MODEL -o config.yaml, then -c config.yaml",
        )
    if output is None:
        raise UsageError("attach needs a folder to write.", "Pass -o FOLDER.")
    from engram.addressing.tokenizer_files import load_tokenizer
    from engram.backbone.quantisation import check_packages, quantisation_note
    from engram.checkpoints.attach import attach as attaching
    from engram.config.table_dtype import loading_note, table_dtype
    from engram.storage.folders import torn

    memory = read_named(out, config)
    own = None if tokenizer is None else load_tokenizer(tokenizer)
    silence_transformers()
    with blaming(ctx, {"dtype": ("dtype",)}):
        plan = attaching.plan(
            model,
            memory,
            output,
            tokenizer=own,
            init=init,
            dtype=dtype,
            link=link,
            adapter=adapter,
            digests=digests,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    if verify and not dry_run:
        check_packages(plan.base.config)  # at once, not after the whole was written
    leftovers = torn(plan.output)
    difference = None
    stored = table_dtype(memory, plan.base.dtype, dtype)
    if dry_run:
        attaching.check_output(plan, overwrite=overwrite)
    else:
        with out.progress("Writing", unit="B") as step:
            attaching.write(plan, overwrite=overwrite, progress=step)
    out.part(lambda console: _show(console, plan, stored, dry_run))
    if verify and not dry_run:
        from engram.checkpoints.attach.compare_logits import max_logit_difference

        difference = max_logit_difference(plan.base.folder, output, trust_remote_code)
    payload = {
        "schema": SCHEMA,
        "plan": {**_plan(plan, stored, dry_run), "removed": [str(folder) for folder in leftovers]},
        "files": plan.files(),
        "added_params": plan.added_params,
        "max_logit_difference": difference,
    }
    out.result(payload, lambda console: _show_difference(console, difference))
    if adapter and not dry_run:
        pair = (plan.base.hub_id or str(plan.base.folder), str(plan.output))
        names = ", ".join(dumps(name, ensure_ascii=False) for name in pair)
        code = f"import engram; model = engram.load({names})"
        out.next_step(f"python -c {shlex.quote(code)}")
    elif not dry_run:
        out.next_step(f"engram verify {shlex.quote(str(plan.output))}")
    loaded = loading_note(stored.name, plan.base.dtype)
    for note in (quantisation_note(plan.base.config), stored.note, loaded):
        if note is not None:
            out.note(note)
    for folder in leftovers:
        verb = "would be removed" if dry_run else "was removed"
        out.note(f"{folder} {verb}: a process that was killed left it.")
    if difference and init == "identity":
        out.warn("the logits changed, although the memory should start as the identity")
        raise typer.Exit(5)


def _plan(plan: AttachPlan, dtype: TableDtype, dry_run: bool) -> dict[str, Any]:
    return {
        "base": str(plan.base.folder),
        "base_params": plan.base.params,
        "output": str(plan.output),
        "written": not dry_run,
        "small_files": plan.small_files(),
        "written_bytes": plan.written_bytes,
        "added_bytes": plan.added_bytes,
        "dtype": dtype.name,
        "dtype_from": dtype.origin,
        "layers_path": plan.layers_path,
        "layer_ids": plan.addresses.layer_ids,
        "layer_rows": [layer.stored_rows for layer in plan.addresses.layers],
        "fingerprint": plan.addresses.fingerprint,
    }


def _show(
    console: Console,
    plan: AttachPlan,
    dtype: TableDtype,
    dry_run: bool,
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("file", "size", "what"):
        table.add_column(column, justify="right" if column == "size" else "left")
    what = {"copied": "base, copied", "linked": "base, linked", "memory": "memory"}
    for file in plan.files():
        table.add_row(file["name"], format_bytes(file["bytes"]), what[file["origin"]])
    console.print(table)
    layers = ", ".join(map(str, plan.addresses.layer_ids))
    base, added = plan.base.params, plan.added_params
    share = added / (base + added)
    verb = "Would attach" if dry_run else "Attached"
    console.print(
        f"\n{verb} {format_count(added)} parameters ({added:,}; {share:.1%} of the whole) to "
        f"layers {layers} in {dtype}."
    )


def _show_difference(console: Console, difference: float | None) -> None:
    if difference is not None:
        same = "equal to the base's, bit for bit" if difference == 0 else f"differ by {difference}"
        console.print(f"Logits: {same}.")

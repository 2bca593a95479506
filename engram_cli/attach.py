"""`engram attach`: writes a checkpoint with a memory beside its base's untouched weights."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

import engram
from engram.config.init import IDENTITIES, Init
from engram.errors import UsageError
from engram.sizing.size_options import SizeOptions
from engram.units import format_bytes, format_count
from engram_cli.options import (
    OUTPUT,
    BudgetOption,
    ConfigOption,
    DryRunOption,
    KOption,
    LayersOption,
    LinkOption,
    MemoryOption,
    OutputOption,
    OverwriteOption,
    RevisionOption,
    ShareOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, Shown, Table, silence_transformers
from engram_cli.values import DTYPES, blaming, read_dtype, read_named

if TYPE_CHECKING:
    from engram.checkpoints.attach.attach_plan import Attached

_InitOption = Annotated[
    Init,
    typer.Option(
        help="identity and zero-table: the model's output stays as it was until trained further, "
        "since the value projection or the table is zero. paper: for training from scratch."
    ),
]
_DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        parser=read_dtype,
        help=f"dtype of the tables: {DTYPES}. Default: the config's table_dtype, or the "
        "base's own.",
    ),
]
_AdapterOption = Annotated[
    bool,
    typer.Option("--adapter", help="Write the memory alone, to be loaded beside its base."),
]
_DigestsOption = Annotated[
    bool,
    typer.Option("--digests", help="Record the sha256 of every weight file, for verify --full."),
]
_VerifyOption = Annotated[
    bool,
    typer.Option("--verify", help="Load both models afterwards and compare their logits."),
]
_SIZE = {
    "share": ShareOption,
    "budget": BudgetOption,
    "memory": MemoryOption,
    "k": KOption,
    "layers": LayersOption,
}


@taking(sizes=_SIZE, out=OUTPUT)
def attach(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Base: a Hugging Face folder, or a hub id.")
    ],
    config: ConfigOption = None,
    *,
    sizes: SizeOptions,
    output: OutputOption = None,
    tokenizer: TokenizerOption = None,
    init: _InitOption = "identity",
    dtype: _DtypeOption = None,
    link: LinkOption = False,
    adapter: _AdapterOption = False,
    digests: _DigestsOption = False,
    revision: RevisionOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    verify: _VerifyOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    out: Output,
) -> None:
    """Attach a memory to a checkpoint: a new folder that transformers loads.

    The base's weight files are copied or linked, never decoded; the memory is written beside them
    as a stream, so that memory use does not grow with the model. Without -c a memory is sized for
    the base as `engram size` does, a quarter of the whole unless an option says otherwise, and its
    config is written into the folder as memory.yaml.

    Examples:
        $ engram attach ./model -o quarter
        $ engram attach ./model --share 10% -o small
        $ engram attach ./model -c config.yaml -o attached
        $ engram attach ./model -c config.yaml -o bf16 --dtype bfloat16 --verify
        $ engram attach ./model -c config.yaml -o planned --link --dry-run --json
    """
    if config is not None and sizes != SizeOptions():
        raise UsageError(
            "-c gives the memory's config, and another option its size.",
            "Leave one of them out.",
        )
    if output is None:
        raise UsageError("attach needs a folder to write.", "Pass -o FOLDER.")
    from engram.addressing.tokenizer_files import load_tokenizer

    memory = sizes if config is None else read_named(out, config)
    own = None if tokenizer is None else load_tokenizer(tokenizer)
    silence_transformers()
    options = {"dtype": ("dtype",), **{name: (name,) for name in _SIZE}}
    with blaming(ctx, options), ExitStack() as bar:

        def tell(written: Attached) -> None:
            bar.close()
            out.part(_show(written))

        attached = engram.attach(
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
            verify=verify,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=bar.enter_context(out.progress("Writing")),
            on_written=tell,
        )
    difference = attached.max_logit_difference
    same = "equal to the base's, bit for bit" if difference == 0 else f"differ by {difference}"
    out.result(attached.to_dict(), [] if difference is None else [f"Logits: {same}."])
    _tell(out, attached)
    if difference and init in IDENTITIES:
        out.warn("the logits changed, although the memory should start as the identity")
        raise typer.Exit(5)


def _tell(out: Output, attached: Attached) -> None:
    """Tell the next step, and what is worth knowing of the dtypes and of what was there before."""
    from engram.backbone.quantisation import quantisation_note
    from engram.config.table_dtype import loading_note

    plan, dtype, base = attached.plan, attached.dtype, attached.plan.base
    if plan.adapter and attached.written:
        pair = (base.hub_id or str(base.folder), str(plan.output))
        names = ", ".join(dumps(name, ensure_ascii=False) for name in pair)
        code = f"import engram; model = engram.load({names})"
        out.next_step(f"python -c {shlex.quote(code)}")
    elif attached.written:
        out.next_step(f"engram verify {shlex.quote(str(plan.output))}")
    for note in (
        quantisation_note(base.config),
        dtype.note,
        loading_note(dtype.name, base.dtype),
    ):
        if note is not None:
            out.note(note)
    for folder in attached.removed:
        verb = "was removed" if attached.written else "would be removed"
        out.note(f"{folder} {verb}: a process that was killed left it.")


def _show(attached: Attached) -> Shown:
    plan = attached.plan
    yield files_table(plan.files())
    layers = ", ".join(map(str, plan.addresses.layer_ids))
    added, whole = plan.added_params, plan.base.params + plan.added_params
    verb = "Attached" if attached.written else "Would attach"
    yield (
        f"\n{verb} {format_count(added)} parameters ({added:,}; {added / whole:.1%} of the whole) "
        f"to layers {layers} in {attached.dtype}."
    )


def files_table(files: Iterable[dict[str, Any]]) -> Table:
    """List weight files that are written: name, size, and where each comes from."""
    what = {"copied": "base, copied", "linked": "base, linked", "memory": "memory"}
    rows = [(file["name"], format_bytes(file["bytes"]), what[file["origin"]]) for file in files]
    return Table(rows, ("file", "size", "what"), left=("file", "what"))

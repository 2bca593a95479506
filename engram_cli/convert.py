"""`engram convert`: a memory in another dtype, under other names, or in an engine's file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

import engram
from engram.errors import DoesNotFitError, UsageError
from engram.layouts import LAYOUTS
from engram.layouts.gguf_dialects import WRITTEN_DIALECTS
from engram.units import format_bytes
from engram_cli.attach import files_table
from engram_cli.engine import WORK_IS_KEPT
from engram_cli.options import (
    OUTPUT,
    ConfigOption,
    DryRunOption,
    LinkOption,
    LoaderOption,
    OutputOption,
    OverwriteOption,
    ResumeOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.repair_text import demand_alone
from engram_cli.repair_text import repair as run_repair
from engram_cli.values import DTYPES, blaming, read_gguf_dtype, read_named

if TYPE_CHECKING:
    from engram.checkpoints.convert.conversion import Conversion
    from engram.checkpoints.convert.gguf_conversion import GgufConversion
    from engram.checkpoints.convert.recoded import Loss

Format: TypeAlias = Literal["attached", *LAYOUTS, *WRITTEN_DIALECTS]  # type: ignore[valid-type]


@taking(out=OUTPUT)
def convert(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An attached folder, an adapter, a folder or safetensors file with published "
            "names, or GGUF.",
        ),
    ],
    output: OutputOption = None,
    to: Annotated[
        Format,
        typer.Option(
            metavar="FORMAT",
            help="attached: our own format; published names of a layout: "
            f"{', '.join(LAYOUTS)}; or GGUF, a file or a folder of parts: "
            f"{', '.join(WRITTEN_DIALECTS)}.",
        ),
    ] = "attached",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            parser=read_gguf_dtype,
            help=f"dtype of the tables: {DTYPES}; floats are for the rest of the memory, too. "
            "Default: as they are. For GGUF also q8_0.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Attach a memory that is alone to this folder or hub id; for GGUF: the model in "
            "GGUF to put it into.",
        ),
    ] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    link: LinkOption = False,
    trust_remote_code: TrustRemoteCodeOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend the metadata of a GGUF file: constants, keys, types and names; rows stay.",
        ),
    ] = False,
    engine: LoaderOption = None,
    first_shard: Annotated[
        bool,
        typer.Option(
            "--first-shard",
            help="With --repair: a first part for metadata alone, which later repairs rewrite.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    dry_run: DryRunOption = False,
    *,
    out: Output,
) -> None:
    """Convert a memory: to another dtype, to published names or GGUF, or back.

    Files are read and written as a stream; the base's are copied or linked, never decoded. Tables
    in fp8 (e4m3, an e8m0 scale for 32 columns) and int8 (a float32 scale a row) are for inference.
    Says how far values moved: largest and root mean square difference, by layer.

    Repairs mend what engram verify names in a GGUF file, where metadata can; else exit code 5.
    In GGUF, fp8 rows are interleaved with their scales (gguf_ds4) or lie in two tensors
    (gguf_tarruda), both without loss.

    Examples:
        $ engram convert ./attached-model -o small --dtype fp8
        $ engram convert ./attached-model -o published --to demo --json
        $ engram convert ./attached-model -o planned --dtype int8 --link --dry-run
        $ engram convert model.gguf -o other.gguf --to gguf_llama --dry-run
        $ engram convert model.gguf -o mended.gguf --repair --dry-run
    """
    if output is None:
        raise UsageError("convert needs a folder to write.", "Pass -o FOLDER.")
    from engram.addressing.tokenizer_files import load_tokenizer

    own = None if tokenizer is None else load_tokenizer(tokenizer)
    if repair:
        of_conversions = {"--dtype": dtype, "--base": base, "-c": config, "--resume": resume}
        of_conversions |= {"--to": to != "attached", "--trust-remote-code": trust_remote_code}
        demand_alone(of_conversions, repairs=True)
        run_repair(
            out,
            source,
            output,
            tokenizer=own,
            engine=engine,
            first_shard=first_shard,
            link=link,
            overwrite=overwrite,
            dry_run=dry_run,
        )
        return
    demand_alone({"--target": engine, "--first-shard": first_shard}, repairs=False)
    memory = None if config is None else read_named(out, config)
    with (
        blaming(ctx, {"dtype": ("dtype",), "to": ("to",)}),
        _telling_what_is_kept(out, output),
        out.progress("Converting") as step,
    ):
        converted = engram.convert(
            source,
            output,
            to,
            dtype=dtype,
            base=base,
            config=memory,
            tokenizer=own,
            link=link,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            resume=resume,
            dry_run=dry_run,
            progress=step,
        )
    answer = converted.to_dict()
    out.result(answer, _show(converted.plan, answer))
    if not dry_run:
        out.next_step(f"engram verify {shlex.quote(str(output))}")


@contextmanager
def _telling_what_is_kept(out: Output, output: Path) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, OSError, DoesNotFitError) as error:
        from engram.storage.unfinished import SYNC_BYTES, can_be_continued

        if can_be_continued(output):
            out.note(WORK_IS_KEPT)
        elif isinstance(error, KeyboardInterrupt):
            out.note(f"Nothing is kept of less than {format_bytes(SYNC_BYTES)}: start over.")
        raise


def _show(plan: Conversion | GgufConversion, answer: dict[str, Any]) -> Shown:
    yield files_table(answer["files"])
    verb = "Converted" if answer["written"] else "Would convert"
    yield (
        f"\n{verb} tables from {answer['from_dtype']} to {answer['dtype']} "
        f"({answer['layout']}, written as {answer['to']})."
    )
    if answer["written"]:
        rows = [
            (layer_id, part, *_words(loss))
            for layer_id, parts in plan.losses().items()
            for part, loss in parts.items()
        ]
        yield Table(
            rows,
            ("layer", "part", "largest error", "rms error", "rms of values"),
            left=["part"],
        )


def _words(loss: Loss) -> tuple[str, str, str]:
    if loss.rms is None:
        return "none", "none", ""
    return f"{loss.max_error:.3g}", f"{loss.rms_error:.3g}", f"{loss.rms:.3g}"

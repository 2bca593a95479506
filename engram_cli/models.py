"""`engram models`: list the base models of the catalogue, show the facts about one."""

from typing import Annotated

import typer

import engram
from engram.units import format_bytes, format_count
from engram_cli.help import Command, new_app
from engram_cli.options import OUTPUT, RevisionOption, taking
from engram_cli.output import Output, Table

SCHEMA = "engram.models/1"

models = new_app(
    help="""List the base models whose sizes are known without a download, and show one.

    Examples:
        $ engram models ls
        $ engram models show qwen3-0.6b
    """
)


@models.command("ls", cls=Command)
@taking(out=OUTPUT)
def ls(*, out: Output) -> None:
    """List the built-in base models; any other is read from its config.json.

    Examples:
        $ engram models ls
        $ engram models ls --json
    """
    found = engram.list_backbones()
    rows = [
        (
            it.name,
            format_count(it.params),
            it.num_layers,
            it.hidden_size,
            it.dtype or "",
            "" if it.cache_bytes_per_token is None else f"{it.cache_bytes_per_token:,}",
        )
        for it in found
    ]
    headings = ("model", "parameters", "layers", "hidden size", "dtype", "cache bytes a token")
    payload = {"schema": SCHEMA, "models": [it.to_dict() for it in found]}
    out.result(payload, [Table(rows, headings, left=("model", "dtype"))])
    out.next_step("engram size --model NAME")


@models.command("show", cls=Command)
@taking(out=OUTPUT)
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER", help="Name in the catalogue, folder with config.json, or hub id."
        ),
    ],
    revision: RevisionOption = None,
    *,
    out: Output,
) -> None:
    """Show the facts about a base model that a memory and its cost depend on.

    Examples:
        $ engram models show gpt2
        $ engram models show ./model --json
    """
    found = engram.load_backbone(model, revision)
    cache, decoder = found.cache_bytes_per_token, found.decoder
    rows = [
        ("model", found.name),
        ("family", found.model_type),
        ("parameters", f"{found.params:,} ({found.params_kind})"),
        ("of a token", f"{found.active_params:,}"),
        ("embedding and head", f"{found.embedding_params:,}"),
        ("weights", f"{format_bytes(found.size_bytes)} in {found.dtype or 'bfloat16 (assumed)'}"),
        ("layers", found.num_layers),
        ("hidden size", found.hidden_size),
        ("residual streams", found.hc_mult),
        ("vocabulary", f"{found.vocab_size:,} rows"),
        *(
            [("tokenizer", f"{found.tokenizer_vocab_size:,} tokens")]
            if found.tokenizer_vocab_size is not None
            else []
        ),
        *([] if cache is None else [("cache", f"{format_bytes(cache)} a token (estimated)")]),
        *(
            []
            if decoder is None or decoder.positions is None
            else [("positions", f"{decoder.positions:,}")]
        ),
    ]
    out.result({"schema": SCHEMA, **found.to_dict()}, [Table(rows, left=("", ""))])
    if found.unsuited:
        out.note(f"No memory can be attached to {found.name}: it is {found.unsuited}.")
    else:
        out.next_step(f"engram size --model {model}")

"""`engram size`: table sizes from a budget, or the cost of given table sizes."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

import engram
from engram.errors import UsageError
from engram.layouts import LAYOUT_NAMES
from engram.sizing.size_options import SizeOptions
from engram.storage.files import check_file
from engram_cli.options import (
    OUTPUT,
    BudgetOption,
    DimOption,
    HeadsOption,
    KOption,
    LayersOption,
    MemoryOption,
    ModelOption,
    OverwriteOption,
    PlotOption,
    ShareOption,
    taking,
)
from engram_cli.output import Output
from engram_cli.pictures import check_plot, write_plot
from engram_cli.run_options import RUN
from engram_cli.values import blaming, read_count

# By config key, or name of a value: the options that decide it.
_OPTIONS_OF = {
    **{"layout": ("layout",), "layer_ids": ("layers",), "n_head_per_ngram": ("heads",)},
    **{"n_embed_per_ngram": ("dim", "heads"), "max_ngram_size": ("max_ngram_size",)},
    **{"hidden_size": ("hidden_size",), "engram_vocab_size": ("vocab",), "hc_mult": ("hc_mult",)},
    **{"kernel_size": ("kernel_size",), "table_dtype": ("dtype",), "load": ("load",)},
    **{"k": ("k",), "share": ("share",), "tokens": ("tokens",)},
    "learning_rate": ("learning_rate",),
    "engram_table_size": ("rows", "k", "budget", "share", "memory", "corpus"),
}
_SIZE = {
    "budget": BudgetOption,
    "share": ShareOption,
    "memory": MemoryOption,
    "k": KOption,
    "rows": Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="Instead of a budget: this many rows per n-gram ORDER.",
        ),
    ],
    "corpus": Annotated[
        Path | None,
        typer.Option(
            metavar="STATS",
            help="What engram hash --json said of a text: how full its n-grams make the tables. "
            "Without a budget, the tables that they fill to --load.",
        ),
    ],
    "load": Annotated[
        float, typer.Option(metavar="F", help="Share of a table's rows that --corpus may fill.")
    ],
    "tokens": Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="Size for a text of this length, as 10B, predicted from that of --corpus.",
        ),
    ],
    "train_tokens": Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="Tokens of the training: how often it touches a row, and how far that moves it.",
        ),
    ],
    "learning_rate": Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Learning rate of the tables, for --train-tokens. Default: 0.1 for optimizers of "
            "rows, else 2e-3.",
        ),
    ],
    "whole_k": Annotated[
        bool,
        typer.Option(
            "--whole-k",
            help="Round k down to a whole number, as engram_torch_unofficial does. Default: all "
            "rows that fit.",
        ),
    ],
    "per": Annotated[
        Literal["order", "head"],
        typer.Option(
            help="Whether --k and --rows are, and the table shows, rows of an n-gram ORDER (summed "
            "over its heads) or of one HEAD, as the reference demo counts."
        ),
    ],
    "layers": LayersOption,
    "heads": HeadsOption,
    "dim": DimOption,
    "max_ngram_size": Annotated[
        int | None, typer.Option(help="Highest n-gram order. Default: the layout's (demo 3).")
    ],
    "hidden_size": Annotated[
        int | None, typer.Option(help="Width of the hidden states. Default: the model's.")
    ],
    "vocab": Annotated[
        int | None, typer.Option(help="Token ids. Default: the length of the model's tokenizer.")
    ],
    "hc_mult": Annotated[
        int | None, typer.Option(help="Residual streams. Default: the model's, mostly 1.")
    ],
    "kernel_size": Annotated[
        int | None, typer.Option(help="Taps of the convolution. Default: the layout's (demo 4).")
    ],
    "layout": Annotated[str, typer.Option(metavar="NAME", help=f"{LAYOUT_NAMES}.")],
    **RUN,
}


@taking(options=_SIZE, out=OUTPUT)
def size(
    ctx: typer.Context,
    model: ModelOption = None,
    *,
    options: SizeOptions,
    emit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the config; - prints it instead.")
    ] = None,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    out: Output,
) -> None:
    """Find the largest memory that a budget or a machine holds: its k, table sizes and place.

    k counts table rows per n-gram order as a multiple of the vocabulary. Every table gets its real
    prime, every projection, norm and convolution is counted; on a machine also the base model,
    gradients, optimizer state, caches and activations (estimated). The memory is read in layers 1
    and half the depth, unless --layers says otherwise. `engram report` of the config that comes
    out, with the same options, says the same. Exits with 5 when nothing fits, or when the size that
    is given does not.

    Examples:
        $ engram size --model gpt2
        $ engram size --model gpt2 --share 20% --layers 1,5 --json
        $ engram size --model qwen3-0.6b --device-memory 24GB --host-memory 64GB
        $ engram size --model qwen3-0.6b --device-memory 24GB --mode training --train memory
        $ engram size --model llama-3.2-1b --disk 500GB --disk-iops 500K --tokens-per-second 2000
        $ engram size --model gpt2 --k 5 --plot size.png
        $ engram size --model gpt2 --corpus stats.json --load 0.5 --tokens 1B
        $ engram size --hidden-size 2560 --vocab 128815 --layers 1,14 --hc-mult 4 --budget 5.8B
    """
    is_printed = str(emit) == "-"
    if is_printed and out.json:
        raise UsageError("--emit - and --json both want stdout.", "Give --emit a file.")
    if emit is not None and not is_printed:
        check_file(emit, overwrite)
    check_plot(plot, overwrite)
    from engram.backbone import load_backbone
    from engram.sizing.sized_memory import SCHEMA

    backbone = None if model is None else load_backbone(model)
    known = {"schema": SCHEMA, "model_params": None if backbone is None else backbone.params}
    with out.answering_no(known), blaming(ctx, _OPTIONS_OF):
        sizing = engram.size(backbone, options)
    for note in sizing.notes:
        out.note(note)
    for doubt in sizing.config.doubts:
        out.warn(doubt)
    if emit is not None:
        from engram.config.config_file import dump_config, write_config

        title = f"Sized by engram size{f' for {backbone.name}' if backbone else ''}"
        if is_printed:
            text = dump_config(sizing.config, title=title).rstrip("\n")
            out.result({}, text, wrap=False)
            return
        write_config(emit, sizing.config, title=title, overwrite=overwrite)
        out.note(f"Wrote {emit}.")
    from engram_cli.size_text import show

    answer = sizing.to_dict()
    if plot is not None:
        from engram.sizing.curve import size_curve

        answer["curve"] = [point.to_dict() for point in size_curve(sizing)]
    out.result(answer, show(sizing, answer, options.per))
    if plot is not None:
        from engram.pictures.size_plot import plot_size

        source = "Parameters counted exactly, with the real primes of every head."
        write_plot(out, ctx, plot, plot_size, answer, source, overwrite=overwrite)
    if sizing.fits is False:
        raise typer.Exit(5)
    if backbone is not None and backbone.unsuited:
        out.note(f"No memory can be attached to {backbone.name}: it is {backbone.unsuited}.")
        return
    # A catalogue name may be short; attach asks the hub.
    name = backbone.name if backbone is not None and backbone.source == "catalogue" else model
    config = shlex.quote(str(emit or "engram.yaml"))
    attach = f"engram attach {shlex.quote(name or 'MODEL')} -c {config} -o FOLDER"
    out.next_step(attach if emit else f"the same with --emit engram.yaml, then {attach}")

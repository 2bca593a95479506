"""`engram allocate`: split a sparse parameter budget between experts and memory."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import engram
from engram.errors import UsageError
from engram.sizing.size_options import SizeOptions
from engram_cli.allocate_text import show_law, show_mixture
from engram_cli.options import (
    OUTPUT,
    DimOption,
    HeadsOption,
    LayersOption,
    ModelOption,
    OverwriteOption,
    PlotOption,
    taking,
)
from engram_cli.output import Output, Shown
from engram_cli.pictures import check_plot, write_plot
from engram_cli.values import blaming, given_flags, read_count

# By name of a value that the library refuses: the options that set it.
_OPTIONS_OF = {
    "rho": ("rho",),
    "active_params": ("active", "total"),
    "kept": ("experts_kept",),
    "baseline": ("experts_baseline",),
    "active": ("experts_active",),
    "layer_ids": ("layers",),
    "n_head_per_ngram": ("heads",),
    "n_embed_per_ngram": ("dim", "heads"),
}
# Options that a model makes needless, and those that need one.
_COUNTS = ("total", "active", "experts_baseline", "experts_active", "row_width")
_SHAPE = {"layers": LayersOption, "heads": HeadsOption, "dim": DimOption}


@taking(options=_SHAPE, out=OUTPUT)
def allocate(
    ctx: typer.Context,
    model: ModelOption = None,
    total: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="P_tot: parameters without embedding and head, such as 26B.",
        ),
    ] = None,
    active: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT", parser=read_count, help="P_act: those that one token uses, such as 3B."
        ),
    ] = None,
    rho: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="Share that experts keep. Default: 0.75, and without --model also 0.80.",
        ),
    ] = None,
    experts_kept: Annotated[int | None, typer.Option(help="Routed experts that are kept.")] = None,
    experts_baseline: Annotated[
        int | None, typer.Option(help="Routed experts of the model without memory.")
    ] = None,
    experts_active: Annotated[
        int | None, typer.Option(help="Routed experts used per token.")
    ] = None,
    row_width: Annotated[
        int | None, typer.Option(min=1, help="Also print the number of table rows of this width.")
    ] = None,
    *,
    options: SizeOptions,
    emit: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write memory.yaml, the memory's config, and base.yaml, the keys of the model's "
            "config.json that change.",
        ),
    ] = None,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    out: Output,
) -> None:
    """Split a mixture of experts' sparse parameters between experts and memory.

    P_sparse = P_tot - P_act; experts keep rho of it and the memory gets the rest. The paper's best
    rho is 0.75 to 0.80. Expert counts give rho instead: (kept - active) / (baseline - active).

    With --model: how many whole experts each rho keeps, and for the one of --rho or --experts-kept
    the memory that takes the parameters of the others, and what it adds to the work of a token.

    Examples:
        $ engram allocate --model qwen3-30b-a3b
        $ engram allocate --model deepseek-v3 --rho 0.8 --layers 1,14 --dim 1280 --emit traded
        $ engram allocate --total 9.9B --active 993M --plot rho.png
        $ engram allocate --total 9.9B --active 993M --rho 0.8 --row-width 80
        $ engram allocate --experts-kept 55 --experts-baseline 72 --experts-active 6 --json
    """
    needs_model = (*_SHAPE, "emit", *(["overwrite"] if plot is None else []))
    needless = given_flags(ctx, needs_model if model is None else _COUNTS)
    if needless and model is None:
        raise UsageError(f"Without --model there is no use for {' and '.join(needless)}.")
    if needless:
        raise UsageError(f"--model states {' and '.join(needless)} itself.", "Leave them out.")
    check_plot(plot, overwrite)
    telling = partial(_tell, ctx, out, plot, overwrite)
    if model is not None:
        with blaming(ctx, _OPTIONS_OF):
            _allocate_mixture(model, rho, experts_kept, options, emit, overwrite, out, telling)
        return
    with blaming(ctx, _OPTIONS_OF):
        found = engram.allocate(
            total,
            active,
            rho=rho,
            experts_kept=experts_kept,
            experts_baseline=experts_baseline,
            experts_active=experts_active,
            row_width=row_width,
        )
    answer = found.to_dict()
    telling(answer, show_law(answer))
    if found.splits:
        out.next_step(f"engram size --model MODEL --budget {found.splits[0].engram_params}")


def _allocate_mixture(
    model: str,
    rho: str | None,
    experts_kept: int | None,
    options: SizeOptions,
    emit: Path | None,
    overwrite: bool,
    out: Output,
    telling: Callable[[dict[str, Any], Shown], None],
) -> None:
    from engram.sizing.allocation import SCHEMA
    from engram.sizing.moe_allocation import check_emitted

    if emit is not None:
        check_emitted(emit, overwrite)
    with out.answering_no({"schema": SCHEMA, "model": model}):
        found = engram.allocate_mixture(model, rho=rho, experts_kept=experts_kept, options=options)
    for note in found.sizing.notes:
        out.note(note)
    if emit is not None:
        written = found.write(emit, overwrite=overwrite)
        out.note(f"Wrote {' and '.join(map(str, written))}.")
    answer = found.to_dict()
    telling(answer, show_mixture(found, answer))
    out.next_step(
        "the same with --emit FOLDER"
        if emit is None
        else f"engram config check {shlex.quote(str(written[0]))} --model {shlex.quote(model)}"
    )


def _tell(
    ctx: typer.Context,
    out: Output,
    plot: Path | None,
    overwrite: bool,
    answer: dict[str, Any],
    shown: Shown,
) -> None:
    """Print an answer, and draw it if that was asked for: then with the curves that are drawn."""
    if plot is None:
        out.result(answer, shown, wrap=False)
        return
    from engram.pictures.allocation_plot import plot_allocation
    from engram.sizing.allocation import published_curves

    answer = {**answer, "curves": published_curves()}
    out.result(answer, shown, wrap=False)
    source = "Losses: arXiv 2601.07372, section 3; parameters counted."
    write_plot(out, ctx, plot, plot_allocation, answer, source, overwrite=overwrite)

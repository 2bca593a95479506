"""`engram allocate`: split a sparse parameter budget between experts and memory."""

from typing import Annotated, Any

import typer

import engram
from engram_cli.options import OUTPUT, taking
from engram_cli.output import Output, Shown, Table
from engram_cli.values import blaming, read_count

# By name of a value that the library refuses: the options that set it.
_OPTIONS_OF = {
    "rho": ("rho",),
    "active_params": ("active", "total"),
    "kept": ("experts_kept",),
    "baseline": ("experts_baseline",),
    "active": ("experts_active",),
}


@taking(out=OUTPUT)
def allocate(
    ctx: typer.Context,
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
        typer.Option(metavar="R", help="Share that experts keep. Default: 0.75 and 0.80."),
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
    out: Output,
) -> None:
    """Split a mixture of experts' sparse parameters between experts and memory.

    P_sparse = P_tot - P_act; experts keep rho of it and the memory gets the rest. The paper's best
    rho is 0.75 to 0.80. Expert counts give rho instead: (kept - active) / (baseline - active).

    Examples:
        $ engram allocate --total 9.9B --active 993M
        $ engram allocate --total 9.9B --active 993M --rho 0.8 --row-width 80
        $ engram allocate --experts-kept 55 --experts-baseline 72 --experts-active 6 --json
    """
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
    out.result(answer, _show(answer), wrap=False)
    if found.splits:
        out.next_step(f"engram size --model MODEL --budget {found.splits[0].engram_params}")


def _show(payload: dict[str, Any]) -> Shown:
    points = payload["points"]
    if points:
        yield f"P_sparse {payload['P_sparse']:,} = {payload['P_tot']:,} - {payload['P_act']:,}"
        rho, *counts = headings = list(points[0])
        rows = [(f"{one[rho]:.4g}", *(f"{one[key]:,}" for key in counts)) for one in points]
        yield Table(rows, headings)
    else:
        yield f"rho {payload['rho']:.4f}"
    yield "\nPublished points"
    for item in payload["known"]:
        yield f"  {item['what']} ({item['kind']})\n    {item['result']}"

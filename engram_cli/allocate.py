"""`engram allocate`: split a sparse parameter budget between experts and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engram.errors import UsageError
from engram_cli.options import JsonOption, QuietOption, VerboseOption
from engram_cli.output import Output
from engram_cli.values import blaming, read_count

if TYPE_CHECKING:
    from fractions import Fraction

    from rich.console import Console

    from engram.sizing.allocation import Allocation


# By name of a value that the library refuses: the options that set it.
_OPTIONS_OF = {
    **{"rho": ("rho",), "active_params": ("active", "total")},
    **{"kept": ("experts_kept",), "baseline": ("experts_baseline",), "active": ("experts_active",)},
}


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
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Split a mixture of experts' sparse parameters between experts and memory.

    P_sparse = P_tot - P_act; experts keep rho of it and the memory gets the rest. The paper's best
    rho is 0.75 to 0.80. Expert counts give rho instead: (kept - active) / (baseline - active).

    Examples:
        $ engram allocate --total 9.9B --active 993M
        $ engram allocate --total 9.9B --active 993M --rho 0.8 --row-width 80
        $ engram allocate --experts-kept 55 --experts-baseline 72 --experts-active 6 --json
    """
    from engram.sizing.allocation import BEST_RHO, KNOWN
    from engram.sizing.allocation import allocate as split

    with blaming(ctx, _OPTIONS_OF):
        by_experts = _rho_from_experts(experts_kept, experts_baseline, experts_active)
    if by_experts is not None and rho is not None:
        raise UsageError("--rho and expert counts exclude each other.", "Give one of them.")
    if (total is None) != (active is None) or (total is None and by_experts is None):
        raise UsageError("Give both --total and --active.", "Expert counts alone give rho.")
    given = by_experts if rho is None else rho
    rhos = list(BEST_RHO) if given is None else [given]
    splits: list[Allocation] = []
    if total is not None and active is not None:
        with blaming(ctx, _OPTIONS_OF):
            splits = [split(total, active, value) for value in rhos]
    points = [_point(item, row_width) for item in splits]
    payload = {
        "schema": "engram.allocate/1",
        "P_tot": total,
        "P_act": active,
        "P_sparse": None if total is None or active is None else total - active,
        **(points[0] if points else {"rho": float(rhos[0]), "P_MoE": None, "P_Engram": None}),
        "rho_from": "given" if rho is not None else "paper" if by_experts is None else "experts",
        "points": points,
        "known": [vars(known) for known in KNOWN],
    }
    out = Output(json=json, quiet=quiet, verbose=verbose)
    out.result(payload, lambda console: _show(console, payload))
    if points:
        out.next_step(f"engram size --model MODEL --budget {points[0]['P_Engram']}")


def _rho_from_experts(
    kept: int | None, baseline: int | None, active: int | None
) -> Fraction | None:
    from engram.sizing.allocation import rho_from_experts

    if kept is None and baseline is None and active is None:
        return None
    if kept is None or baseline is None or active is None:
        raise UsageError(
            "rho by experts needs all of --experts-kept, --experts-baseline and --experts-active.",
            "Or give --rho itself.",
        )
    return rho_from_experts(kept, baseline, active)


def _point(split: Allocation, row_width: int | None) -> dict[str, Any]:
    point: dict[str, Any] = {
        "rho": float(split.rho),
        "P_MoE": split.moe_params,
        "P_Engram": split.engram_params,
    }
    if row_width is not None:
        point["table_rows"] = split.engram_params // row_width
    return point


def _show(console: Console, payload: dict[str, Any]) -> None:
    from rich.table import Table

    if payload["points"]:
        console.print(
            f"P_sparse {payload['P_sparse']:,} = {payload['P_tot']:,} - {payload['P_act']:,}"
        )
        table = Table(box=None, pad_edge=False)
        for heading in payload["points"][0]:
            table.add_column(heading, justify="right")
        for point in payload["points"]:
            table.add_row(f"{point['rho']:.4g}", *(f"{point[key]:,}" for key in list(point)[1:]))
        console.print(table)
    else:
        console.print(f"rho {payload['rho']:.4f}")
    console.print("\nPublished points")
    for item in payload["known"]:
        console.print(f"  {item['what']} ({item['kind']})\n    {item['result']}", soft_wrap=True)

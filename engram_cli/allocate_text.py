"""`engram allocate` for people: the law, or the experts and the memory of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.units import format_bytes
from engram_cli.output import Shown, Table

if TYPE_CHECKING:
    from engram.sizing.moe_allocation import MixtureAllocation


def show_law(answer: dict[str, Any]) -> Shown:
    """Describe the split of stated parameters, as `--json` prints it."""
    points = answer["points"]
    if points:
        yield _sparse(answer)
        rho, *counts = headings = list(points[0])
        rows = [(f"{one[rho]:.4g}", *(f"{one[key]:,}" for key in counts)) for one in points]
        yield Table(rows, headings)
    else:
        yield f"rho {answer['rho']:.4f}"
    yield from _published(answer)


def show_mixture(found: MixtureAllocation, answer: dict[str, Any]) -> Shown:
    """Describe the splits of a model, and the memory for one of them.

    Args:
        found: The splits.
        answer: The same as `--json` prints it.
    """
    mixture = found.mixture
    yield (
        f"{found.base.name}: {mixture.experts} routed experts in {mixture.layers} layers, a token "
        f"uses {mixture.active}"
    )
    yield _sparse(answer)
    yield _curve(found)
    yield (
        f"\nrho {answer['rho']:.4g}: {found.chosen.experts} of {mixture.experts} experts are kept; "
        "the memory gets the rest"
    )
    yield Table(_facts(found, answer))
    yield "\nWork of a token"
    yield Table(_work(answer["token"]))
    yield from _published(answer)


def _sparse(answer: dict[str, Any]) -> str:
    return f"P_sparse {answer['P_sparse']:,} = {answer['P_tot']:,} - {answer['P_act']:,}"


def _curve(found: MixtureAllocation) -> Table:
    from engram.sizing.allocation import BEST_RHO

    rows = []
    for point in found.points:
        marks = ["the paper's best"] if point.wanted_rho in BEST_RHO else []
        marks += ["taken"] if point == found.chosen else []
        split = point.split
        counts = (f"{split.moe_params:,}", f"{split.engram_params:,}")
        rows.append(
            (
                f"{float(point.wanted_rho or 0):.2f}",
                point.experts,
                f"{float(split.rho):.4f}",
                *counts,
                ", ".join(marks),
            )
        )
    return Table(rows, ("rho", "experts", "exactly", "P_MoE", "P_Engram", ""))


def _facts(found: MixtureAllocation, answer: dict[str, Any]) -> list[tuple[str, ...]]:
    config, memory = found.sizing.config, answer["memory"]
    size = f"{format_bytes(memory['table_bytes'])} in {memory['table_dtype']}"
    changed = ", ".join(".".join(key) for key in found.mixture.keys)
    return [
        (
            "freed",
            f"{answer['freed_params']:,} parameters",
            "experts and their part of the routers",
        ),
        ("rows per ORDER", f"{config.engram_table_size[0]:,}", "nominal: engram_table_size"),
        (
            "row width",
            f"{config.row_width}",
            f"x {config.n_columns} rows, in layers {', '.join(map(str, config.layer_ids or []))}",
        ),
        ("tables", f"{memory['table_params']:,} parameters", size),
        ("dense parts", f"{memory['dense_params']:,} parameters"),
        (
            "memory",
            f"{memory['total_params']:,} parameters",
            f"{memory['slack_params']:,} of the freed left",
        ),
        (
            "whole",
            f"{answer['total_params']:,} parameters",
            f"the base has {answer['model_params']:,}",
        ),
        ("config.json", f"{changed}: {found.chosen.experts}", f"was {found.mixture.experts}"),
    ]


def _work(token: dict[str, Any]) -> list[tuple[str, ...]]:
    more = token["more_params"]
    return [
        ("active before", f"{token['base_params']:,} parameters"),
        ("dense parts", f"+{token['dense_params']:,}", "of the memory"),
        ("rows", f"+{token['row_params']:,}", f"{token['rows']} rows, read and not multiplied"),
        ("routers", f"-{token['router_params']:,}", "for the experts that go"),
        (
            "active after",
            f"{token['params']:,} parameters",
            f"{more:+,}, {more / token['base_params']:+.3%}",
        ),
        (
            "FLOPs",
            f"{token['more_flops']:+,}",
            f"{token['more_flops_share']:+.3%}, forward, without attention scores",
        ),
    ]


def _published(answer: dict[str, Any]) -> Shown:
    yield "\nPublished points"
    for item in answer["known"]:
        yield f"  {item['what']} ({item['kind']})\n    {item['result']}"

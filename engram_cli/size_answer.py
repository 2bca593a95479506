"""What `engram size` answers: one object for programs, a table of facts for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from engram.backbone import Backbone
    from engram.sizing.budget import Sizing
    from engram.sizing.table_load import CorpusStatistics, NgramCount

SCHEMA = "engram.size/1"


def answer_of(sizing: Sizing, backbone: Backbone | None) -> dict[str, Any]:
    """Put a sized memory into the terms of `--json`."""
    from engram.config.table_dtype import table_dtype
    from engram.sizing.weights import config_weights

    config, counts = sizing.config, sizing.counts
    model_params = None if backbone is None else backbone.params
    whole = counts.total_params + (model_params or 0)
    dtype = table_dtype(config, None if backbone is None else backbone.float_dtype)
    parts = config_weights(counts, dtype.name)
    return {
        "schema": SCHEMA,
        "model": None if backbone is None else backbone.name,
        "layout": config.layout,
        "model_params": model_params,
        "budget_params": sizing.budget_params,
        "fits": None if sizing.budget_params is None else True,
        "k": sizing.k,
        "k_fill": sizing.k_fill,
        "seed_rule_k": sizing.seed_rule_k,
        "engram_vocab_size": config.engram_vocab_size,
        "engram_table_size": config.engram_table_size,
        "rows_per_head": config.rows_per_head,
        "row_width": config.row_width,
        "layers": [layer.to_dict() for layer in counts.layers],
        "table_params": counts.table_params,
        "dense_params": counts.dense_params,
        "total_params": counts.total_params,
        "slack_params": sizing.slack_params,
        "share_of_whole": None if model_params is None else counts.total_params / whole,
        "table_dtype": dtype.name,
        "table_dtype_from": dtype.origin,
        "table_bytes": sum(part.size_bytes for part in parts if part.group == "table"),
        "total_bytes": sum(part.size_bytes for part in parts),
    }


def corpus_answer(
    statistics: CorpusStatistics,
    counts: Sequence[NgramCount],
    sizing: Sizing,
    sized_for_tokens: int,
    load: float,
) -> dict[str, Any]:
    """Say how full a text makes the tables, in the terms of `--json`."""
    from dataclasses import asdict

    from engram.sizing.table_load import order_loads

    return {
        "file": str(statistics.file),
        "tokens": statistics.tokens,
        "sized_for_tokens": sized_for_tokens,
        "wanted_load": load,
        "orders": [asdict(item) for item in order_loads(counts, sizing.counts, load)],
    }


def show(console: Console, sizing: Sizing, answer: dict[str, Any], per: str) -> None:
    """Print what was sized.

    Args:
        console: Where to.
        sizing: The memory.
        answer: The same as `--json` prints it.
        per: Whether the table shows rows per "order" or per "head".
    """
    console.print(_facts(sizing, answer))
    if answer["corpus"] is not None:
        from engram_cli.size_corpus import show_corpus

        show_corpus(console, answer["corpus"])
    console.print()
    console.print(_layer_table(sizing, per))


def _facts(sizing: Sizing, answer: dict[str, Any]) -> Table:
    from rich.table import Table

    from engram.config.table_dtype import TableDtype

    config, counts = sizing.config, sizing.counts
    facts = Table.grid(padding=(0, 2))
    if answer["model"] is not None:
        facts.add_row("model", f"{answer['model_params']:,} parameters", answer["model"])
    for fact in _size_facts(sizing, answer):
        facts.add_row(*fact)
    facts.add_row("rows per ORDER", _each(config.engram_table_size), "nominal: engram_table_size")
    facts.add_row(
        "rows per HEAD",
        _each(config.rows_per_head),
        f"nominal: an order's rows / {plural(config.n_head_per_ngram, 'head')}",
    )
    facts.add_row(
        "row width",
        f"{config.row_width}",
        f"x {plural(counts.n_columns, 'row')} = a token's memory of {config.memory_width}",
    )
    primes = [prime for layer in counts.layers for order in layer.primes for prime in order]
    facts.add_row(
        "primes",
        f"{min(primes):,} to {max(primes):,}",
        f"{plural(len(primes), 'head')}, all different",
    )
    facts.add_row("tables", f"{counts.table_params:,} parameters")
    facts.add_row("dense parts", f"{counts.dense_params:,} parameters")
    rest = [] if sizing.slack_params is None else [f"{sizing.slack_params:,} of the budget left"]
    if answer["share_of_whole"] is not None:
        rest.insert(0, f"{answer['share_of_whole']:.2%} of the whole")
    facts.add_row("total", f"{counts.total_params:,} parameters", ", ".join(rest))
    facts.add_row(
        "bytes",
        format_bytes(answer["total_bytes"]),
        f"tables {format_bytes(answer['table_bytes'])} in "
        f"{TableDtype(answer['table_dtype'], answer['table_dtype_from'])}",
    )
    return facts


def _size_facts(sizing: Sizing, answer: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The budget and k, or k alone where the size was given."""
    config, budget = sizing.config, sizing.budget_params
    if budget is None:
        if sizing.k is not None:
            yield "k", f"{sizing.k:.6g}"
        return
    of = answer["model_params"]
    part = "" if of is None else f"{budget / (budget + of):.2%} of the whole"
    yield "budget", f"{budget:,} parameters", part
    used = config.engram_table_size[0] / config.engram_vocab_size
    whole = f"whole k {sizing.k}; " if used != sizing.k else ""
    filling = f"{sizing.k_fill:.4g} fills the budget (--fill 1)"
    yield "k", f"{used:.6g}", f"{whole}{filling}; seed's rule {sizing.seed_rule_k}"


def _each(sizes: list[int]) -> str:
    """One number where all orders have the same."""
    return f"{sizes[0]:,}" if len(set(sizes)) == 1 else ", ".join(f"{size:,}" for size in sizes)


def _layer_table(sizing: Sizing, per: str) -> Table:
    from rich.table import Table

    orders = sizing.config.orders
    if per == "head":
        table = Table("layer", "order", "rows of each HEAD (primes)", box=None, pad_edge=False)
        for layer in sizing.counts.layers:
            for order, primes in zip(orders, layer.primes, strict=True):
                table.add_row(str(layer.layer_id), str(order), " ".join(map(str, primes)))
        return table
    table = Table("layer", "order", box=None, pad_edge=False)
    for heading in ("rows of ORDER", "rows stored", "table", "dense"):
        table.add_column(heading, justify="right")
    for layer in sizing.counts.layers:
        sums = (f"{layer.rows:,}", f"{layer.table_params:,}", f"{layer.dense_params:,}")
        for i, (order, primes) in enumerate(zip(orders, layer.primes, strict=True)):
            first = i == 0
            table.add_row(
                str(layer.layer_id) if first else "",
                str(order),
                f"{sum(primes):,}",
                *(sums if first else ()),
            )
    return table

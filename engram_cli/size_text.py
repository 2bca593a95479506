"""`engram size` for people: a table of facts, how full a text makes the tables, and their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from engram.sizing.sized_memory import Sizing


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
        _show_corpus(console, answer["corpus"])
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
        f"x {plural(config.n_columns, 'row')} = a token's memory of {config.memory_width}",
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


def _show_corpus(console: Console, corpus: dict[str, Any]) -> None:
    """Print how full the tables get."""
    from rich.table import Table

    tokens, length = corpus["tokens"], corpus["sized_for_tokens"]
    source = f", predicted from the {tokens:,} of" if length != tokens else " of"
    console.print(f"\nFilled by {length:,} tokens{source} {corpus['file']}")
    wanted = f"rows per HEAD for load {corpus['wanted_load']:g}"
    table = Table(box=None, pad_edge=False)
    for heading in ("order", "distinct n-grams", "error", wanted, "rows", "rows hit", "load"):
        table.add_column(heading, justify="right")
    for order in corpus["orders"]:
        is_exact, error = order["kind"] == "exact", order["relative_error"]
        table.add_row(
            str(order["order"]),
            f"{'' if is_exact else '~'}{order['distinct_ngrams']:,}",
            "exact" if is_exact else "not known" if error is None else f"{error:.1%}",
            f"{order['rows_needed_per_head']:,}",
            f"{order['rows']:,}",
            f"~{order['expected_rows_hit']:,.0f}",
            f"~{order['expected_load']:.2%}",
        )
    console.print(table)
    console.print(
        "rows, rows hit, load: of all heads of the order in one layer, as expected of n-grams that "
        "fall on\nrows evenly. A full table is not a failure: in one study, tables without "
        "collisions brought nothing\n(arXiv:2601.16531)."
    )

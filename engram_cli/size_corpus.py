"""What `engram size --corpus` tells people: how full a text makes the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console


def show_corpus(console: Console, corpus: dict[str, Any]) -> None:
    """Print how full the tables get.

    Args:
        console: Where to.
        corpus: `corpus` of what `--json` prints.
    """
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
        "fall on\nrows evenly. A full table is no failure: in one study, tables without collisions "
        "brought nothing\n(arXiv:2601.16531)."
    )

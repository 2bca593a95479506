"""`engram config show` for people: the numbers that follow from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def show_derived(console: Console, numbers: dict[str, Any]) -> None:
    """Print what follows from a config, as comments of the YAML above it."""
    from rich.table import Table

    from engram.config.table_dtype import TableDtype

    def each(values: list[Any]) -> str:
        return ", ".join(f"{value:,}" for value in values)

    rows = {
        "k": f"{', '.join(f'{k:.6g}' for k in numbers['k'])} times the vocabulary per order",
        "rows per ORDER": f"{each(numbers['engram_table_size'])} (engram_table_size)",
        "rows per HEAD": f"{each(numbers['rows_per_head'])} (rounded up to primes)",
        "row width": f"{numbers['row_width']:,} columns",
        "memory width": f"{numbers['memory_width']:,} values a token and layer",
        **{
            f"rows of layer {layer['layer_id']}": f"{layer['rows']:,} stored"
            for layer in numbers["layers"]
        },
        "reads per token": f"{numbers['rows_per_token']:,} rows, {numbers['bytes_per_token']:,} B "
        f"in {TableDtype(numbers['table_dtype'], numbers['table_dtype_from'])}",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row("#", name, value)
    console.print(table)

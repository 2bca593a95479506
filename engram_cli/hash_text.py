"""Text output of `engram hash`: tables of rows, n-grams, their growth, and caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from engram.units import format_bytes, format_count
from engram_cli.corpus_text import counts_text

if TYPE_CHECKING:
    from rich.console import Console

    from engram.addressing.addresses import Addresses
    from engram.config.engram_config import EngramConfig

_MEASURES = ("rows", "rows hit", "load", "distinct n-grams", "collisions")
_SHARES = {
    "any_head": "in a head",
    "every_head": "in every head",
    "same_rows": "same rows",
    "occurrences_any_head": "of the text:\nin a head",
    "occurrences_every_head": "of the text:\nin every head",
}


def default_note(config: EngramConfig, addresses: Addresses) -> str:
    """Say which memory a text is hashed for without a config."""
    layers = ", ".join(map(str, addresses.layer_ids))
    return (
        f"No -c: sized for the tokenizer, with {config.engram_table_size[0]:,} rows per order "
        f"(twice its {config.engram_vocab_size:,} ids) in {config.n_head_per_ngram} heads, orders "
        f"2 to {config.max_ngram_size}, layers [{layers}], layout {config.layout}, "
        f"seed {config.seed}."
    )


def plan_text(plan: dict[str, Any]) -> str:
    """Describe the output of a dry run."""
    total = plan["estimated_bytes"]
    about = f", about {format_bytes(total)} in all" if total is not None else ""
    return (
        f"{plan['output']} takes {plan['bytes_per_token']} bytes per token{about}; "
        f"{format_bytes(plan['free_bytes'])} are free there."
    )


def show(console: Console, payload: dict[str, Any], verbose: bool) -> None:
    """Print the answer.

    Args:
        console: Prints the answer.
        payload: The answer as `--json` prints it.
        verbose: Whether each head gets its own line.
    """
    console.print(counts_text(payload))
    console.print(
        f"{payload['ids']:,} ids in {payload['seconds']:.1f} s "
        f"({format_count(payload['tokens_per_second'])} tokens/s)"
    )
    tokenizer, compressed = payload["tokenizer"], payload["compressed_vocab_size"]
    after = f", {compressed:,} after compression" if compressed is not None else ""
    console.print(f"Tokenizer {tokenizer['name']}: {tokenizer['vocab_size']:,} ids{after}.")
    console.print(f"Fingerprint {payload['fingerprint']}")
    for layer in payload["layers"]:
        console.print(f"\nLayer {layer['layer_id']}")
        console.print(_table(layer["heads"], verbose))
        console.print("n-grams that share their row with another one")
        console.print(_collisions(layer["orders"]))
    kinds = {head["kind"] for layer in payload["layers"] for head in layer["heads"]}
    if "estimated" in kinds:
        error = max(head["relative_error"] for head in payload["layers"][0]["heads"])
        console.print(f"\n~ estimated, within {error:.2%} in 19 cases of 20; rows hit are exact.")
    _show_growth(console, payload["growth"], payload["tokens"])
    if payload["cache"] is not None:
        _show_cache(console, payload["cache"])
    if payload["output"] is not None:
        size = format_bytes(payload["output_bytes"])
        console.print(f"\nWrote {payload['output']}: {size}.")


def _table(heads: list[dict[str, Any]], verbose: bool) -> Any:
    """Make a table with one row per head, or per order with the range of its heads."""
    table = _right("order", "head" if verbose else "heads", *_MEASURES)
    groups: dict[Any, list[dict[str, Any]]] = {}
    for head in heads:
        key = (head["order"], head["head"]) if verbose else head["order"]
        groups.setdefault(key, []).append(head)
    for group in groups.values():
        about = "~" if group[0]["kind"] == "estimated" else ""
        table.add_row(
            str(group[0]["order"]),
            str(group[0]["head"] if verbose else len(group)),
            _range(group, "rows", "{:,}"),
            _range(group, "rows_hit", "{:,}"),
            _range(group, "load", "{:.2%}"),
            f"{about}{group[0]['distinct_ngrams']:,}",
            about + _range(group, "collisions", "{:,}"),
        )
    return table


def _range(group: list[dict[str, Any]], key: str, form: str) -> str:
    low, high = (form.format(pick(head[key] for head in group)) for pick in (min, max))
    return low if low == high else f"{low} .. {high}"


def _collisions(orders: list[dict[str, Any]]) -> Table:
    table = _right("order", *_SHARES.values())
    for order in orders:
        about = "~" if order["kind"] == "estimated" else ""
        shares = [order[key] for key in _SHARES]
        cells = ["-" if share is None else f"{about}{share:.2%}" for share in shares]
        table.add_row(str(order["order"]), *cells)
    return table


def _show_growth(console: Console, curves: list[dict[str, Any]], tokens: int) -> None:
    predictions = [curve["prediction"] for curve in curves]
    if None in predictions:
        console.print("\nThe text is too short for a growth curve of its n-grams.")
        return
    wanted = predictions[0]["tokens"]
    if wanted <= tokens:
        _show_beginning(console, curves, tokens, wanted)
        return
    console.print(f"\nDistinct n-grams as the text grows, from {tokens:,} to {wanted:,} tokens")
    table = _right("order", "now", "exponent", "then", "of all tokens", "missed by\nat most")
    for curve, then in zip(curves, predictions, strict=True):
        last, miss = curve["points"][-1], then["relative_error"]
        table.add_row(
            str(curve["order"]),
            f"{'~' if last['kind'] == 'estimated' else ''}{last['distinct_ngrams']:,}",
            f"{curve['exponent']:.3f}",
            f"~{then['distinct_ngrams']:,}",
            f"{then['distinct_ngrams'] / wanted:.1%}",
            "not checked" if miss is None else f"{miss:.1%} in {then['checks']} checks",
        )
    console.print(table)
    if predictions[0]["relative_error"] is None:
        console.print(
            f"not checked: the text is too short for a prediction to {wanted / tokens:,.0f} times "
            "its length to be tried on it."
        )
    console.print(
        "then: estimated by Heaps' law with a bending exponent; checks: the same prediction made "
        "from shorter prefixes of this text. Other kinds of text grow differently."
    )


def _show_beginning(
    console: Console, curves: list[dict[str, Any]], tokens: int, wanted: int
) -> None:
    """Print the n-grams of a prefix of the text, which need no prediction."""
    console.print(f"\nDistinct n-grams in the first {wanted:,} of {tokens:,} tokens")
    table = _right("order", "in all", "exponent", "there", "of its tokens")
    for curve in curves:
        last, there = curve["points"][-1], curve["prediction"]["distinct_ngrams"]
        table.add_row(
            str(curve["order"]),
            f"{'~' if last['kind'] == 'estimated' else ''}{last['distinct_ngrams']:,}",
            f"{curve['exponent']:.3f}",
            f"~{there:,}",
            f"{there / wanted:.1%}",
        )
    console.print(table)
    console.print("there: read off the growth curve of this text, which is longer; no prediction.")


def _show_cache(console: Console, cache: dict[str, Any]) -> None:
    which = "the whole text" if cache["is_whole_text"] else "the start of the text"
    sizes = cache["row_bytes"]
    for layer in cache["layers"]:
        console.print(
            f"\nA row cache for layer {layer['layer_id']}, a table of "
            f"{layer['table_rows']:,} rows: {layer['lookups']:,} look-ups of "
            f"{layer['distinct_rows']:,} rows in {which}, {cache['tokens']:,} tokens"
        )
        table = _right("rows", *sizes, "LRU\ncold", "LRU\nwarm", "fixed\ncold", "fixed\nwarm")
        table.collapse_padding = True
        for point in layer["points"]:
            rates = ("lru_cold", "lru_warm", "static_cold", "static_warm")
            table.add_row(
                f"{point['rows']:,}",
                *map(_short_bytes, point["bytes"].values()),
                *(f"{point[rate]:.1%}" for rate in rates),
            )
        console.print(table)
        table = _right("warm, to have", "rows of LRU", "bfloat16", "rows, fixed", "bfloat16")
        for target in layer["targets"]:
            cells = []
            for rows in (target["lru_rows"], target["static_rows"]):
                cells += ["none", "-"]
                if rows is not None:
                    cells[-2:] = f"{rows:,}", format_bytes(rows * sizes["bfloat16"])
            table.add_row(f"{target['hit_rate']:.0%} of look-ups", *cells)
        console.print(table)
    console.print(
        "Exact for these tokens. cold: empty at first; warm: filled by the first half, measured on "
        "the second. fixed: the most frequent rows. Longer texts need more rows for the same."
    )


def _short_bytes(size_bytes: int) -> str:
    """Format a size with three digits, so that columns of them fit a terminal."""
    number, _, unit = format_bytes(size_bytes).partition(" ")
    value = float(number)
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{number if unit == 'B' else f'{value:.{digits}f}'} {unit}"


def _right(*headings: str) -> Table:
    """Make a table with right-aligned columns; cells that do not fit are folded, never cut."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table

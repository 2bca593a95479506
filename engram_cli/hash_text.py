"""Text output of `engram hash`: tables of rows, n-grams, their growth, and caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, format_count
from engram_cli.corpus_text import counts_text
from engram_cli.output import Shown, Table

if TYPE_CHECKING:
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
    return (
        f"No -c: sized for the tokenizer, with {config.engram_table_size[0]:,} rows per order "
        f"(twice its {config.engram_vocab_size:,} ids) in {config.n_head_per_ngram} heads, orders "
        f"2 to {config.max_ngram_size}, layers {list(addresses.layer_ids)}, "
        f"layout {config.layout}, seed {config.seed}."
    )


def plan_text(plan: dict[str, Any]) -> str:
    """Describe the output of a dry run."""
    total = plan["estimated_bytes"]
    about = f", about {format_bytes(total)} in all" if total is not None else ""
    return (
        f"{plan['output']} takes {plan['bytes_per_token']} bytes per token{about}; "
        f"{format_bytes(plan['free_bytes'])} are free there."
    )


def show(payload: dict[str, Any], verbose: bool) -> Shown:
    """Describe the answer.

    Args:
        payload: The answer as `--json` prints it.
        verbose: Whether each head gets its own line.
    """
    yield counts_text(payload)
    rate = format_count(payload["tokens_per_second"])
    yield f"{payload['ids']:,} ids in {payload['seconds']:.1f} s ({rate} tokens/s)"
    tokenizer, compressed = payload["tokenizer"], payload["compressed_vocab_size"]
    after = f", {compressed:,} after compression" if compressed is not None else ""
    yield f"Tokenizer {tokenizer['name']}: {tokenizer['vocab_size']:,} ids{after}."
    yield f"Fingerprint {payload['fingerprint']}"
    for layer in payload["layers"]:
        yield f"\nLayer {layer['layer_id']}"
        yield _heads(layer["heads"], verbose)
        yield "n-grams that share their row with another one"
        yield Table(map(_collisions, layer["orders"]), ("order", *_SHARES.values()))
    kinds = {head["kind"] for layer in payload["layers"] for head in layer["heads"]}
    if "estimated" in kinds:
        error = max(head["relative_error"] for head in payload["layers"][0]["heads"])
        yield f"\n~ estimated, within {error:.2%} in 19 cases of 20; rows hit are exact."
    yield from _growth(payload["growth"], payload["tokens"])
    if payload["cache"] is not None:
        yield from _cache(payload["cache"])
    if payload["output"] is not None:
        yield f"\nWrote {payload['output']}: {format_bytes(payload['output_bytes'])}."


def _about(counted: dict[str, Any]) -> str:
    """Mark what is estimated."""
    return "~" if counted["kind"] == "estimated" else ""


def _heads(heads: list[dict[str, Any]], verbose: bool) -> Table:
    """Make a table with one row per head, or per order with the range of its heads."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for head in heads:
        key = (head["order"], head["head"]) if verbose else head["order"]
        groups.setdefault(key, []).append(head)
    rows = [
        (
            group[0]["order"],
            group[0]["head"] if verbose else len(group),
            _range(group, "rows", "{:,}"),
            _range(group, "rows_hit", "{:,}"),
            _range(group, "load", "{:.2%}"),
            f"{_about(group[0])}{group[0]['distinct_ngrams']:,}",
            _about(group[0]) + _range(group, "collisions", "{:,}"),
        )
        for group in groups.values()
    ]
    return Table(rows, ("order", "head" if verbose else "heads", *_MEASURES))


def _range(group: list[dict[str, Any]], key: str, form: str) -> str:
    low, high = (form.format(pick(head[key] for head in group)) for pick in (min, max))
    return low if low == high else f"{low} .. {high}"


def _collisions(order: dict[str, Any]) -> list[str]:
    shares = [order[key] for key in _SHARES]
    cells = ["-" if share is None else f"{_about(order)}{share:.2%}" for share in shares]
    return [str(order["order"]), *cells]


def _growth(curves: list[dict[str, Any]], tokens: int) -> Shown:
    predictions = [curve["prediction"] for curve in curves]
    if None in predictions:
        yield "\nThe text is too short for a growth curve of its n-grams."
        return
    wanted, checked = predictions[0]["tokens"], predictions[0]["relative_error"] is not None
    rows = [
        [
            str(curve["order"]),
            f"{_about(curve['points'][-1])}{curve['points'][-1]['distinct_ngrams']:,}",
            f"{curve['exponent']:.3f}",
            f"~{curve['prediction']['distinct_ngrams']:,}",
            f"{curve['prediction']['distinct_ngrams'] / wanted:.1%}",
        ]
        for curve in curves
    ]
    if wanted <= tokens:
        yield f"\nDistinct n-grams in the first {wanted:,} of {tokens:,} tokens"
        yield Table(rows, ("order", "in all", "exponent", "there", "of its tokens"))
        yield "there: read off the growth curve of this text, which is longer; no prediction."
        return
    yield f"\nDistinct n-grams as the text grows, from {tokens:,} to {wanted:,} tokens"
    for row, then in zip(rows, predictions, strict=True):
        miss = then["relative_error"]
        row.append("not checked" if miss is None else f"{miss:.1%} in {then['checks']} checks")
    yield Table(rows, ("order", "now", "exponent", "then", "of all tokens", "missed by\nat most"))
    if not checked:
        yield (
            f"not checked: the text is too short for a prediction to {wanted / tokens:,.0f} times "
            "its length to be tried on it."
        )
    yield (
        "then: estimated by Heaps' law with a bending exponent; checks: the same prediction made "
        "from shorter prefixes of this text. Other kinds of text grow differently."
    )


def _cache(cache: dict[str, Any]) -> Shown:
    which = "the whole text" if cache["is_whole_text"] else "the start of the text"
    sizes = cache["row_bytes"]
    rates = ("lru_cold", "lru_warm", "static_cold", "static_warm")
    headings = ("rows", *sizes, "LRU\ncold", "LRU\nwarm", "fixed\ncold", "fixed\nwarm")
    for layer in cache["layers"]:
        yield (
            f"\nA row cache for layer {layer['layer_id']}, a table of "
            f"{layer['table_rows']:,} rows: {layer['lookups']:,} look-ups of "
            f"{layer['distinct_rows']:,} rows in {which}, {cache['tokens']:,} tokens"
        )
        rows = [
            (
                f"{point['rows']:,}",
                *map(_short_bytes, point["bytes"].values()),
                *(f"{point[rate]:.1%}" for rate in rates),
            )
            for point in layer["points"]
        ]
        yield Table(rows, headings, is_dense=True)
        needed = [
            (
                f"{target['hit_rate']:.0%} of look-ups",
                *_needed(target["lru_rows"], sizes["bfloat16"]),
                *_needed(target["static_rows"], sizes["bfloat16"]),
            )
            for target in layer["targets"]
        ]
        yield Table(needed, ("warm, to have", "rows of LRU", "bfloat16", "rows, fixed", "bfloat16"))
    yield (
        "Exact for these tokens. cold: empty at first; warm: filled by the first half, measured on "
        "the second. fixed: the most frequent rows. Longer texts need more rows for the same."
    )


def _needed(rows: int | None, row_bytes: int) -> tuple[str, str]:
    return ("none", "-") if rows is None else (f"{rows:,}", format_bytes(rows * row_bytes))


def _short_bytes(size_bytes: int) -> str:
    """Format a size with three digits, so that columns of them fit a terminal."""
    number, _, unit = format_bytes(size_bytes).partition(" ")
    value = float(number)
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{number if unit == 'B' else f'{value:.{digits}f}'} {unit}"

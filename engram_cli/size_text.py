"""`engram size` for people: a table of facts, how full a text makes the tables, and their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, format_count, plural
from engram_cli.machine_text import and_, machine, parts
from engram_cli.output import Shown, Table

if TYPE_CHECKING:
    from engram.sizing.sized_memory import Sizing


def show(sizing: Sizing, answer: dict[str, Any], per: str) -> Shown:
    """Describe a memory that was sized.

    Args:
        sizing: The memory.
        answer: The same as `--json` prints it.
        per: Whether the table shows rows per "order" or per "head".
    """
    has_machine = sizing.trial.use.options.has_machine
    if has_machine:
        yield from _machine(sizing)
    yield Table(_facts(sizing, answer))
    if has_machine:
        yield from _alternatives(sizing)
    if answer["corpus"] is not None:
        yield from _corpus(answer["corpus"])
    yield ""
    yield _layers_by_head(sizing) if per == "head" else _layers_by_order(sizing)
    advice = answer["advice"]["notes"]
    if advice:
        yield ""
        yield Table([("-", note) for note in advice], is_dense=True)


def _machine(sizing: Sizing) -> Shown:
    """Say whether everything fits, what fills the machine, and what limits the memory."""
    plan = sizing.plan
    yield from machine(sizing.trial.use, sizing.trial.resources, sizing.fits)
    if plan is not None and plan.binding:
        lacking = [f"{it.shown(it.missing)} of {name}" for name, it in plan.doubling.items()]
        yield f"Limited by {and_(plan.binding)}; twice the rows would lack {and_(lacking)}."
    yield ""
    yield parts(sizing.trial.use)
    yield ""


def _alternatives(sizing: Sizing) -> Shown:
    """Describe what else could be done, and what the numbers rest on."""
    if sizing.alternatives:
        yield "\nThe most with one thing changed:"
        yield Table(
            [
                (
                    it.tables,
                    it.dtype,
                    it.optimizer or "",
                    f"{it.rows_per_order:,}" if it.rows_per_order else "none fits",
                    format_count(it.total_params) if it.total_params else "",
                    and_(it.binding),
                )
                for it in sizing.alternatives
            ],
            ("tables on", "dtype", "optimizer", "rows per ORDER", "parameters", "limited by"),
            left=("tables on", "dtype", "optimizer", "limited by"),
        )
    yield ""
    yield Table([("-", note) for note in sizing.trial.use.assumptions], is_dense=True)


def _facts(sizing: Sizing, answer: dict[str, Any]) -> list[tuple[str, ...]]:
    from engram.config.table_dtype import TableDtype

    config, counts, model = sizing.config, sizing.counts, answer["model"]
    base = [] if model is None else [("model", f"{answer['model_params']:,} parameters", model)]
    primes = [prime for layer in counts.layers for order in layer.primes for prime in order]
    share, left = answer["share_of_whole"], sizing.slack_params
    shares = [] if share is None else [f"{share:.2%} of the whole"]
    shares += [] if left is None else [f"{left:,} of the budget left"]
    dtype = TableDtype(answer["table_dtype"], answer["table_dtype_from"])
    tables = f"tables {format_bytes(answer['table_bytes'])} in {dtype}"
    return [
        *base,
        *_size_facts(sizing, answer),
        ("rows per ORDER", _each(config.engram_table_size), "nominal: engram_table_size"),
        (
            "rows per HEAD",
            _each(config.rows_per_head),
            f"nominal: an order's rows / {plural(config.n_head_per_ngram, 'head')}",
        ),
        (
            "row width",
            f"{config.row_width}",
            f"x {plural(config.n_columns, 'row')} = a token's memory of {config.memory_width}",
        ),
        (
            "primes",
            f"{min(primes):,} to {max(primes):,}",
            f"{plural(len(primes), 'head')}, all different",
        ),
        ("tables", f"{counts.table_params:,} parameters"),
        ("dense parts", f"{counts.dense_params:,} parameters"),
        ("total", f"{counts.total_params:,} parameters", ", ".join(shares)),
        ("bytes", format_bytes(answer["total_bytes"]), tables),
    ]


def _size_facts(sizing: Sizing, answer: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The budget and k, or k alone where the size was given."""
    from engram.sizing.plan import MEMORY_BYTES

    budget = sizing.budget_params
    for it in sizing.trial.resources:
        if it.name == MEMORY_BYTES and it.capacity is not None:
            yield "budget", it.shown(it.capacity), f"{it.shown(it.capacity - it.used)} left"
    if budget is None:
        if answer["k_used"] is not None:
            yield "k", f"{answer['k_used']:.6g}"
        return
    of = answer["model_params"]
    part = "" if of is None else f"{budget / (budget + of):.2%} of the whole"
    yield "budget", f"{budget:,} parameters", part
    fills = answer["k_used"] == answer["k_fill"]
    used = "every row that fits" if fills else f"a whole number; {answer['k_fill']:.6g} would fit"
    whole = f"; --whole-k makes it {sizing.k:,}" if fills and sizing.k else ""
    theirs = f"; engram_torch_unofficial's formula, of nominal rows, gives {sizing.seed_rule_k:,}"
    yield "k", f"{answer['k_used']:,.6g}", f"{used}{whole}{theirs}"


def _each(sizes: list[int]) -> str:
    """One number where all orders have the same."""
    return f"{sizes[0]:,}" if len(set(sizes)) == 1 else ", ".join(f"{size:,}" for size in sizes)


def _layers_by_head(sizing: Sizing) -> Table:
    headings = ("layer", "order", "rows of each HEAD (primes)")
    rows = [
        (layer.layer_id, order, " ".join(map(str, primes)))
        for layer in sizing.counts.layers
        for order, primes in zip(sizing.config.orders, layer.primes, strict=True)
    ]
    return Table(rows, headings, left=headings)


def _layers_by_order(sizing: Sizing) -> Table:
    rows: list[tuple[object, ...]] = []
    for layer in sizing.counts.layers:
        name: object = layer.layer_id
        sums: tuple[int, ...] = (layer.rows, layer.table_params, layer.dense_params)
        for order, primes in zip(sizing.config.orders, layer.primes, strict=True):
            rows.append((name, order, *(f"{count:,}" for count in (sum(primes), *sums))))
            name, sums = "", ()
    return Table(
        rows,
        ("layer", "order", "rows of ORDER", "rows stored", "table", "dense"),
        left=("layer", "order"),
    )


def _corpus(corpus: dict[str, Any]) -> Shown:
    """Describe how full the tables get."""
    tokens, length = corpus["tokens"], corpus["sized_for_tokens"]
    source = f", predicted from the {tokens:,} of" if length != tokens else " of"
    yield f"\nFilled by {length:,} tokens{source} {corpus['file']}"
    rows = []
    for order in corpus["orders"]:
        is_exact, error = order["kind"] == "exact", order["relative_error"]
        rows.append(
            (
                order["order"],
                f"{'' if is_exact else '~'}{order['distinct_ngrams']:,}",
                "exact" if is_exact else "not known" if error is None else f"{error:.1%}",
                f"{order['rows_needed_per_head']:,}",
                f"{order['rows']:,}",
                f"~{order['expected_rows_hit']:,.0f}",
                f"~{order['expected_load']:.2%}",
            )
        )
    wanted = f"rows per HEAD for load {corpus['wanted_load']:g}"
    yield Table(rows, ("order", "distinct n-grams", "error", wanted, "rows", "rows hit", "load"))
    yield (
        "rows, rows hit, load: of all heads of the order in one layer, as expected of n-grams that "
        "fall on\nrows evenly. A full table is not a failure: in one study, tables without "
        "collisions brought nothing\n(arXiv:2601.16531)."
    )

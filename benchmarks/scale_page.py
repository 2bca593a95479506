"""Writes docs/scale.md and its figures from what `scale.py` measured.

The words are those of scale_page.md beside this file, whose ``{names}`` stand for numbers and
tables; every number of the page comes from the JSON.

    python benchmarks/scale_page.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from scale import FILE, MOST_SLOPE_RATIO
from scale_line import TEXTS, Point, amount_of, ends_of, line_of, of_series, seconds_of, slope_ratio
from scale_memory import ROW_BYTES
from scale_paper import (
    BYTES,
    HOURS,
    LAYERS,
    ROWS,
    TOKENS,
    TOKENS_A_SECOND,
    Rates,
    needs,
    rates_of,
    symbols,
)

from engram.units import format_count

DOCS = Path(__file__).parents[1] / "docs"
TEMPLATE = Path(__file__).with_suffix(".md")
# Bounds of the memory, in bytes; docs/scale.md states their parts.
HASH_BASE, SETS, NGRAM_BYTES = 1.1e9, 2 * 2**24, 54
BUILD_CORE_BYTES, ATTACH_BYTES = 1.1e9, 1.5e9
TABLE_SERIES = ("kernel", "ram", "disk", "step", "file-step", "hash-table", "attach")


def main() -> None:
    """Write the page and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=FILE, help="the JSON of scale.py")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where scale.md goes")
    given = parser.parse_args()
    from scale_figures import draw_all

    content = json.loads(given.file.read_text())
    (given.folder / "figures").mkdir(parents=True, exist_ok=True)
    (given.folder / "scale.md").write_text(page_of(content), encoding="utf-8")
    draw_all(content["points"], given.folder / "figures")


def page_of(content: dict[str, Any]) -> str:
    """Return the page.

    Args:
        content: The JSON of `scale.py`.
    """
    points, at = content["points"], content["machine"]
    rates, built = rates_of(points, at["cores"]), of_series(points, "build")[-1]
    values = {
        "machine": f"{at['processor']}, {at['cores']} cores, {at['memory_bytes'] / 2**30:.0f} GiB",
        "versions": ", ".join(
            f"{name} {at[name]}" for name in ("numpy", "numba", "torch", "tokenizers", "gigatoken")
        ),
        "cores": at["cores"],
        "largest_text": _megabytes(amount_of(of_series(points, "hash")[-1])),
        "largest_table": _rows(of_series(points, "disk")[-1]["size"]),
        "new_share": new_share(points),
        "summary": summary(points, rates),
        "runs": max(len(it["seconds"]) for it in of_series(points, "hash")),
        "corpus_bytes": f"{built['written_bytes'] / built['tokens']:.2f}",
        "memory": f"{at['memory_bytes'] / 2**30:.0f} GiB",
        "seconds": text_seconds(points),
        "lines": text_lines(points),
        "ngrams": text_ngrams(points),
        "text_memory": text_memory(points),
        "tables": table_times(points),
        "commands": table_commands(points),
        "bounds": bounds(points, at["cores"]),
        "symbols": symbols(rates),
        "hours": needs(rates, HOURS, _duration),
        "bytes": needs(rates, BYTES, lambda size: f"{_short(size / 1e9)} GB"),
        "rates": needs(
            rates, TOKENS_A_SECOND, lambda rate: f"{format_count(round(rate))} tokens/s"
        ),
        "build_core": f"{BUILD_CORE_BYTES / 1e9:g}",
        "promise": f"{MOST_SLOPE_RATIO:g}",
    }
    return TEMPLATE.read_text(encoding="utf-8").format_map(values)


def text_seconds(points: list[Point]) -> str:
    """Return the seconds of every command by the length of the text."""
    sizes = sorted({it["size"] for it in points if it["series"] in TEXTS})
    return _by_size(
        ["text", *(f"`{command}`" for command in TEXTS.values())],
        sizes,
        _megabytes,
        [(points, name, lambda it: f"{_short(seconds_of(it))} s") for name in TEXTS],
    )


def text_lines(points: list[Point]) -> str:
    """Return fixed costs and slopes, and the verdict on them."""
    rows = []
    for name, command in TEXTS.items():
        found = of_series(points, name)
        ends, ratio = ends_of(found), slope_ratio(found)
        if ends is None or ratio is None:
            continue
        line = line_of(found)
        slopes = " | ".join(f"{end.slope * 1e9:.3g} s/GB" for end in ends)
        kept = "kept" if ratio <= MOST_SLOPE_RATIO else "**missed**"
        rows.append(
            f"| `{command}` | {line.fixed:.2f} s | {slopes} | {ratio:.2f} | {kept} | "
            f"{1e-6 / ends[1].slope:.3g} MB/s |"
        )
    head = "| command | fixed cost | slope, shortest | slope, longest | ratio | promise | rate |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def text_ngrams(points: list[Point]) -> str:
    """Return tokens and distinct n-grams by the length of the text."""
    found = of_series(points, "hash")
    orders = list(found[0]["distinct_ngrams"])
    columns: list[Callable[[Point], str]] = [
        lambda it: f"{it['tokens']:,}",
        *(partial(_distinct, order) for order in orders),
    ]
    return _by_size(
        ["text", "tokens", *(f"distinct {order}-grams" for order in orders)],
        [it["size"] for it in found],
        _megabytes,
        [(points, "hash", column) for column in columns],
    )


def text_memory(points: list[Point]) -> str:
    """Return the memory of every command by the length of the text."""
    return _by_size(
        ["memory at", *(f"`{command}`" for command in TEXTS.values())],
        sorted({it["size"] for it in points if it["series"] in TEXTS}),
        _megabytes,
        [(points, name, lambda it: _gigabytes(it["held_bytes"])) for name in TEXTS],
    )


def new_share(points: list[Point]) -> str:
    """Return the part of the highest n-grams between the two longest texts that were new."""
    before, after = of_series(points, "hash")[-2:]
    order = max(after["distinct_ngrams"])
    new = after["distinct_ngrams"][order] - before["distinct_ngrams"][order]
    return f"{new / (after['tokens'] - before['tokens']):.1%}"


def summary(points: list[Point], rates: Rates) -> str:
    """Return the answers of the page in a few lines."""
    lines = []
    for name, words in (
        ("hash", "`engram hash TEXT --stats`"),
        ("build", "`engram corpus build`"),
    ):
        line, last = line_of(of_series(points, name)), of_series(points, name)[-1]
        lines.append(
            f"{words}: {line.fixed:.1f} s, and {1e9 * line.slope:.3g} s for each GB of text; "
            f"{_gigabytes(last['held_bytes'])} of memory at {_megabytes(last['size'])}."
        )
    first, last = (of_series(points, "step")[place] for place in (0, -1))
    lines.append(
        f"A training step of a table of {_rows(last['size'])} rows takes "
        f"{seconds_of(last) / seconds_of(first):.2f} times that of {_rows(first['size'])}."
    )
    attached = of_series(points, "attach")[-1]
    lines.append(
        f"`engram attach` of a table of {_rows(attached['size'])} rows writes "
        f"{attached['written_bytes'] / 1e9 / seconds_of(attached):.2f} GB a second, with "
        f"{_gigabytes(attached['held_bytes'])} of memory."
    )
    hours = TOKENS * rates.token_bytes * rates.build / 3600
    lines.append(
        f"10^12 tokens take {hours:,.0f} core-hours to tokenise; two tables of 400 million rows "
        f"are {LAYERS * ROWS * ROW_BYTES / 1e9:.0f} GB."
    )
    return "\n".join(f"- {line}" for line in lines)


def table_times(points: list[Point]) -> str:
    """Return what look-ups, the hash and training take by the rows of the table."""

    def each(name: str, many: str, unit: float, key: str = "seconds") -> Callable[[Point], str]:
        return lambda it: f"{unit * seconds_of({'seconds': it[key]}) / it[many]:.3g}"

    columns = {
        "hash a token, ns": ("kernel", each("kernel", "tokens", 1e9)),
        "look-up, memory, ns": ("ram", each("ram", "look_ups", 1e9)),
        "look-up, page cache, ns": (
            "disk",
            each("disk", "look_ups", 1e9, "warm_seconds"),
        ),
        "look-up, disk, cold, µs": ("disk", each("disk", "look_ups", 1e6)),
        "training step, memory, ms": ("step", lambda it: f"{1e3 * seconds_of(it):.3g}"),
        "training step, file, ms": ("file-step", lambda it: f"{1e3 * seconds_of(it):.3g}"),
    }
    sizes = sorted({it["size"] for it in points if it["series"] in TABLE_SERIES})
    cells = [(points, name, shown) for name, shown in columns.values()]
    return _by_size(["rows", *columns], sizes, _rows, cells)


def table_commands(points: list[Point]) -> str:
    """Return seconds and memory of commands by the rows of the table."""
    found = [*of_series(points, "hash-table"), *of_series(points, "attach")]
    cells: list[tuple[list[Point], str, Callable[[Point], str]]] = [
        (points, "hash-table", lambda it: f"{_short(seconds_of(it))} s"),
        (points, "hash-table", lambda it: _gigabytes(it["held_bytes"])),
        (points, "attach", lambda it: f"{_short(seconds_of(it))} s"),
        (points, "attach", lambda it: f"{it['written_bytes'] / 1e9 / seconds_of(it):.2f} GB/s"),
        (points, "attach", lambda it: _gigabytes(it["held_bytes"])),
    ]
    head = ["rows", "`hash --stats`, 10 MB", "memory", "`attach`", "written", "memory"]
    return _by_size(head, sorted({it["size"] for it in found}), _rows, cells)


def bounds(points: list[Point], cores: int) -> str:
    """Return the most memory that was measured beside each bound."""
    whole = HASH_BASE + SETS * NGRAM_BYTES
    counted = max(
        (it for name in ("hash", "hash-corpus") for it in of_series(points, name)),
        key=lambda it: int(it["held_bytes"]),
    )
    for_table = of_series(points, "hash-table")[-1]
    rows = [
        ("`hash --stats`, any text", counted, whole),
        (
            f"`hash --stats`, a table of {_rows(for_table['size'])} rows",
            for_table,
            whole + for_table["size"] * (1 / 8 + cores / 16),
        ),
        ("`corpus build`", _most(points, "build"), BUILD_CORE_BYTES * cores),
        ("`attach`", _most(points, "attach"), ATTACH_BYTES),
    ]
    step = _most(points, "step")
    rows.append(("training in memory", step, step["size"] * (ROW_BYTES + 4) + 1e9))
    rows.append(("look-ups on a disk", _most(points, "disk"), 1e9))
    lines = [
        f"| {words} | {_gigabytes(bound)} | {_gigabytes(it['held_bytes'])} | "
        f"{'kept' if it['held_bytes'] <= bound else '**exceeded**'} |"
        for words, it, bound in rows
    ]
    return "\n".join(["| what | bound | measured | |", "|---|---|---|---|", *lines])


def _most(points: list[Point], name: str) -> Point:
    return max(of_series(points, name), key=lambda it: int(it["held_bytes"]))


def _by_size(
    head: list[str],
    sizes: Iterable[int],
    shown: Callable[[int], str],
    cells: list[tuple[list[Point], str, Callable[[Point], str]]],
) -> str:
    """Return a table with a row for each size; ``-`` stands where nothing was measured."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for size in sizes:
        row = [shown(size)]
        for points, name, cell in cells:
            found = [it for it in of_series(points, name) if it["size"] == size]
            row.append(cell(found[0]) if found else "-")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _distinct(order: str, point: Point) -> str:
    about = "~" if point["kind"] == "estimated" else ""
    return f"{about}{point['distinct_ngrams'][order]:,}"


def _megabytes(size: int) -> str:
    return f"{round(size / 1e6):,} MB"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _rows(rows: int) -> str:
    return f"{rows:,}"


def _duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds)} s"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()

"""Bytes and reads of tables under an optimiser of rows, in memory or in files.

In files (`engram.nn.file_table`, `engram.storage.row_journal`) the table and each column of its
state is a file, and rows that changed since the last checkpoint wait in a shadow file beside it,
which a checkpoint lists by number. In memory are a bit for each row and the places of changed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engram.sizing.optimizers import ROW_STATES
from engram.sizing.pages import PAGE_BYTES, row_pages
from engram.sizing.resources import MemoryRow
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.weights import Kind, Weights
from engram.units import plural

_INDEX_BYTES = 8
# Bytes of a changed row's number in the list of a checkpoint, and of its place in memory.
_LISTED_BYTES, _PLACE_BYTES = 8, 16


def rows_of_tables(
    tables: Sequence[Weights], options: RunOptions, place: Place, ranks: int, context: int
) -> Iterator[MemoryRow]:
    """Yield the lines for gradients and state of tables, and for what files take besides.

    Args:
        tables: The tables.
        options: The use, whose optimiser is one of rows.
        place: Place of the tables.
        ranks: Ranks that share them.
        context: Tokens of a sequence.
    """
    tokens = options.batch * context
    whole = _Amounts(), _Amounts()  # over all ranks, of one rank
    for table in tables:
        for amounts, rows in zip(whole, (table.rows, -(-table.rows // ranks)), strict=True):
            amounts.add(table, rows, tokens * table.reads, options)
    on_disk = place == "disk"
    lines: list[tuple[str, str, Place, Kind]] = [
        ("gradients", "gradients", "cpu" if on_disk else place, "estimated"),
        ("optimizer state", "state", place, "exact"),
    ]
    if on_disk:
        lines += [
            ("shadow", "shadow", "disk", "estimated"),
            ("shadow index", "index", "cpu", "estimated"),
            ("bitmaps", "bitmaps", "cpu", "exact"),
        ]
    for name, field, home, kind in lines:
        size_bytes, rank_bytes = (getattr(amounts, field) for amounts in whole)
        if size_bytes:
            yield MemoryRow(
                part=f"table {name}",
                params=None,
                size_bytes=size_bytes,
                rank_bytes=rank_bytes,
                place=home,
                kind=kind,
                is_table=True,
            )


def in_file(table: Weights, options: RunOptions) -> Weights:
    """Return a table as it is trained in its file: a look-up reads its row and the row's state."""
    pages = [row_pages(row_bytes, table.rows, 0) for row_bytes in _row_bytes(table, options)]
    return replace(table, pages=sum(pages[1:], pages[0]))


def notes_on_files(options: RunOptions) -> Iterator[str]:
    """Describe what the numbers of tables that are trained in files rest on."""
    yield "tables are trained in copies of their files; where they are copied from is not counted"
    if options.save_every is None:
        yield (
            "shadow: at most all rows and their state change between two checkpoints; --save-every "
            "states the steps"
        )
    else:
        yield (
            f"shadow: rows and state that {plural(options.save_every, 'step')} change, every "
            "look-up a row of its own; at most all"
        )
    yield "disk reads: every row that is looked up, and its state; writing is not counted"


@dataclass
class _Amounts:
    """Bytes of all tables, of each kind."""

    gradients: int = 0
    state: int = 0
    shadow: int = 0
    index: int = 0
    bitmaps: int = 0

    def add(self, table: Weights, rows: int, touched: int, options: RunOptions) -> None:
        """Add so many rows of a table, of which a step touches at most so many."""
        width, item_bytes = _shape(table)
        files = _row_bytes(table, options)
        changed = rows if options.save_every is None else min(rows, touched * options.save_every)
        # Gradients of 16-bit rows are summed in float32.
        self.gradients += min(touched, rows) * (width * max(4, item_bytes) + _INDEX_BYTES)
        self.state += rows * sum(files[1:])
        self.bitmaps += len(files) * -(-rows // 8)
        self.index += len(files) * changed * _PLACE_BYTES
        for row_bytes in (*files, *[_LISTED_BYTES] * len(files)):
            self.shadow += -(-changed * row_bytes // PAGE_BYTES) * PAGE_BYTES


def _shape(table: Weights) -> tuple[int, int]:
    """Return the values of a row, and the bytes of each."""
    return table.params // table.rows, table.size_bytes // table.params


def _row_bytes(table: Weights, options: RunOptions) -> list[int]:
    """Return the bytes of a row in the table's file, then in that of each column of state."""
    state = ROW_STATES[options.optimizer]
    return [table.size_bytes // table.rows, *state.column_bytes(*_shape(table))]

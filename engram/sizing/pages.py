"""Counts the disk pages that reading a row touches, from the positions of rows in the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

PAGE_BYTES = 4096


@dataclass(frozen=True)
class RowPages:
    """The cost of reading one row from disk.

    Attributes:
        reads: Separate reads, such as values and scales.
        least: Fewest pages of any row.
        mean: Average pages of a row.
        most: Most pages of any row.
        exact: Whether the positions of rows are known from files; else they may be any.
    """

    reads: int
    least: int
    mean: float
    most: int
    exact: bool

    def __add__(self, other: RowPages) -> RowPages:
        """Add another part of the same row that is stored elsewhere."""
        return RowPages(
            self.reads + other.reads,
            self.least + other.least,
            self.mean + other.mean,
            self.most + other.most,
            self.exact and other.exact,
        )

    def times(self, count: int) -> RowPages:
        """Multiply by a number of rows that share no pages."""
        return RowPages(
            count * self.reads,
            count * self.least,
            count * self.mean,
            count * self.most,
            self.exact,
        )


def row_pages(row_bytes: int, rows: int = 0, start: int | None = None) -> RowPages:
    """Count the pages of consecutive rows.

    Args:
        row_bytes: Bytes of one row, at least 1.
        rows: Number of rows.
        start: Byte of the file at which the first row starts; None if unknown.
    """
    if start is None:
        least, mean = -(-row_bytes // PAGE_BYTES), 1 + (row_bytes - 1) / PAGE_BYTES
        return RowPages(1, least, mean, least + (row_bytes % PAGE_BYTES != 1), False)
    period = PAGE_BYTES // gcd(row_bytes, PAGE_BYTES)  # the pattern repeats after it
    firsts = [(start + i * row_bytes) % PAGE_BYTES for i in range(min(period, max(rows, 1)))]
    counts = [(first + row_bytes - 1) // PAGE_BYTES + 1 for first in firsts]
    return RowPages(1, min(counts), sum(counts) / len(counts), max(counts), True)


def joined(shards: Iterable[tuple[int, RowPages]]) -> RowPages | None:
    """Count the pages of a row of a table in shards.

    Args:
        shards: Number of rows of each shard, and the cost of one of them.

    Returns:
        The cost of a row of the whole table; None if there are no rows.
    """
    parts = [(rows, pages) for rows, pages in shards if rows]
    if not parts:
        return None
    return RowPages(
        max(pages.reads for _, pages in parts),
        min(pages.least for _, pages in parts),
        sum(rows * pages.mean for rows, pages in parts) / sum(rows for rows, _ in parts),
        max(pages.most for _, pages in parts),
        all(pages.exact for _, pages in parts),
    )

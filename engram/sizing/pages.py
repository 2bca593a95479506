"""Pages of a disk that reading one row of a table touches, by where rows begin in the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

PAGE_BYTES = 4096


@dataclass(frozen=True)
class RowPages:
    """What one row costs to read from disk.

    Attributes:
        reads: Separate places of the file that it is in, such as values and scales.
        least: Pages of the row that lies best.
        mean: Pages of all rows, on average.
        most: Pages of the row that lies worst.
        exact: The files say where rows begin; else they may begin anywhere.
    """

    reads: int
    least: int
    mean: float
    most: int
    exact: bool

    def __add__(self, other: RowPages) -> RowPages:
        """The same row with another part of it elsewhere."""
        return RowPages(
            self.reads + other.reads,
            self.least + other.least,
            self.mean + other.mean,
            self.most + other.most,
            self.exact and other.exact,
        )

    def times(self, count: int) -> RowPages:
        """So many rows, none of which shares a page with another."""
        return RowPages(
            count * self.reads,
            count * self.least,
            count * self.mean,
            count * self.most,
            self.exact,
        )


def row_pages(row_bytes: int, rows: int = 0, start: int | None = None) -> RowPages:
    """Count the pages of rows that lie one after the other.

    Args:
        row_bytes: Bytes of one row, at least 1.
        rows: Number of rows.
        start: Byte of the file where the first begins; None when it may be any.
    """
    if start is None:
        least = -(-row_bytes // PAGE_BYTES)
        most = least + (row_bytes % PAGE_BYTES != 1)
        return RowPages(1, least, 1 + (row_bytes - 1) / PAGE_BYTES, most, False)
    period = PAGE_BYTES // gcd(row_bytes, PAGE_BYTES)  # the rows after it lie as the first ones
    firsts = [(start + i * row_bytes) % PAGE_BYTES for i in range(min(period, max(rows, 1)))]
    counts = [(first + row_bytes - 1) // PAGE_BYTES + 1 for first in firsts]
    return RowPages(1, min(counts), sum(counts) / len(counts), max(counts), True)


def joined(shards: Iterable[tuple[int, RowPages]]) -> RowPages | None:
    """Pages of a row of a table that is cut into shards.

    Args:
        shards: Rows of each shard, and what one of them costs.

    Returns:
        What a row of the whole costs; None when there are no rows.
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

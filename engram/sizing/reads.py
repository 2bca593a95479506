"""Cost of reading a memory: rows, bytes and disk pages per token and per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engram.sizing.pages import PAGE_BYTES, RowPages
from engram.sizing.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The reads of one token from all tables.

    Attributes:
        rows: Table rows.
        size_bytes: Bytes of those rows, scales included.
        pages: Disk pages and separate reads; None if there are no tables.
    """

    rows: int
    size_bytes: int
    pages: RowPages | None


def reads_of(weights: Sequence[Weights]) -> Reads:
    """Add up the reads of one token.

    Pages are counted row by row: rows of one token that share a page count twice.
    """
    tables = [part for part in weights if part.group == "table" and part.rows]
    pages = None
    for part in tables:
        if part.pages is not None:
            read = part.pages.times(part.reads)
            pages = read if pages is None else pages + read
    return Reads(
        rows=sum(part.reads for part in tables),
        size_bytes=sum(part.reads * part.size_bytes // part.rows for part in tables),
        pages=pages,
    )


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The load on the tables' place at a speed.

    Attributes:
        tokens_per_second: The speed.
        rows_per_second: Rows.
        iops: Separate disk reads per second; values and scales of a row are two.
        bytes_per_second: Bytes of rows.
        disk_bytes_per_second: Bytes of whole disk pages, on average.
    """

    tokens_per_second: int
    rows_per_second: int
    iops: int
    bytes_per_second: int
    disk_bytes_per_second: int


def rate_of(reads: Reads, tokens_per_second: int) -> Rate:
    """Multiply the reads of a token by a speed, without any cache of frequent rows."""
    pages = reads.pages
    return Rate(
        tokens_per_second=tokens_per_second,
        rows_per_second=tokens_per_second * reads.rows,
        iops=tokens_per_second * (pages.reads if pages else reads.rows),
        bytes_per_second=tokens_per_second * reads.size_bytes,
        disk_bytes_per_second=round(tokens_per_second * PAGE_BYTES * (pages.mean if pages else 0)),
    )

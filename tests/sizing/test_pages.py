"""Disk pages of table rows, against counting every byte."""

from __future__ import annotations

import pytest

from engram.sizing.pages import PAGE_BYTES, RowPages, joined, row_pages
from engram.sizing.weights import Weights, reads_of


def counted(row_bytes, rows, start):
    """Pages of each row, from its first byte to its last."""
    firsts = [start + row * row_bytes for row in range(rows)]
    spans = [range(first // PAGE_BYTES, (first + row_bytes - 1) // PAGE_BYTES) for first in firsts]
    return [len(span) + 1 for span in spans]


@pytest.mark.parametrize("row_bytes", [1, 8, 96, 256, 264, 320, 4096, 5000, 17_920])
@pytest.mark.parametrize("start", [0, 8, 1000, 4095])
def test_rows_that_lie_somewhere(row_bytes, start):
    rows = 2 * PAGE_BYTES
    pages, every = row_pages(row_bytes, rows, start), counted(row_bytes, rows, start)
    assert (pages.least, pages.most, pages.exact) == (min(every), max(every), True)
    assert pages.mean == pytest.approx(sum(every) / rows, abs=1e-12)


@pytest.mark.parametrize("row_bytes", [1, 2, 264, 4096, 4097, 17_920])
def test_rows_that_may_lie_anywhere(row_bytes):
    every = [counted(row_bytes, 1, start)[0] for start in range(PAGE_BYTES)]
    pages = row_pages(row_bytes)
    assert (pages.least, pages.most, pages.exact) == (min(every), max(every), False)
    assert pages.mean == pytest.approx(sum(every) / PAGE_BYTES, abs=1e-12)


def test_shards_and_scales():
    short, long = row_pages(4096, 10, 0), row_pages(4096, 30, 1)
    whole = joined([(10, short), (30, long), (0, row_pages(1))])
    assert whole == RowPages(1, 1, (10 * 1 + 30 * 2) / 40, 2, True)
    assert joined([]) is None
    assert (short + row_pages(8)).exact is False
    assert (short + long).times(3) == RowPages(6, 9, 9.0, 9, True)


def test_a_memory_of_two_tables():
    tables = [
        Weights(part=f"layers.{i}.table", group="table", params=100 * 64, size_bytes=100 * row,
                dtype=None, kind="exact", rows=100, layer_id=i, reads=reads,
                pages=row_pages(row, 100, 0))
        for i, row, reads in ((1, 128, 4), (2, 4096, 2))
    ]  # fmt: skip
    reads = reads_of(tables)
    assert (reads.rows, reads.size_bytes) == (6, 4 * 128 + 2 * 4096)
    assert reads.pages == RowPages(6, 6, 6.0, 6, True)
    rate = reads.rate(1000)
    assert (rate["rows_per_second"], rate["iops"]) == (6000, 6000)
    assert rate["disk_bytes_per_second"] == 6000 * 4096
    assert reads_of([]).pages is None


@pytest.mark.parametrize(("dtype", "reads"), [("bfloat16", 1), ("int8", 2), ("fp8", 2)])
def test_a_row_that_is_to_be_quantised_is_two_reads(dtype, reads):
    table = Weights(
        part="layers.1.table", group="table", params=100 * 64, size_bytes=100 * 64 * 4,
        dtype="float32", kind="exact", rows=100, layer_id=1, reads=4,
    ).cast(dtype)  # fmt: skip
    assert table.pages.reads == reads
    assert reads_of([table]).pages.reads == 4 * reads

"""Rows of a tensor in memory: the compiled passes do what torch's operations do, bit for bit."""

import pytest
import torch

from engram.nn import row_passes
from engram.nn.compat import version_of
from engram.nn.rows import RamRows

COUNT = 9000


@pytest.fixture(params=[1, 3, 64])
def rows(request):
    generator = torch.Generator().manual_seed(1)
    return RamRows(torch.randn(COUNT, request.param, generator=generator))


def some_ids(count):
    return torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))[:count]


@pytest.fixture(params=[1, 500])
def per_thread(request, monkeypatch):
    """With a few rows a thread, and as it is."""
    if request.param == 500:
        monkeypatch.setattr(row_passes, "_ROWS_PER_THREAD", 500)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


@pytest.mark.parametrize("count", [row_passes.MIN_ROWS, 4999])
def test_passes_equal_torch(rows, count, per_thread):
    ids, before = some_ids(count), rows.values.clone()
    assert row_passes.row_passes(rows.values, ids) is not None
    change = torch.randn(count, rows.width, generator=torch.Generator().manual_seed(3))
    assert torch.equal(rows.read(ids), before[ids])
    rows.subtract(ids, change)
    expected = before.index_copy(0, ids, before[ids] - change)
    assert torch.equal(rows.values, expected)
    rows.write(ids, change)
    assert torch.equal(rows.values, expected.index_copy(0, ids, change))


def test_changes_are_counted_and_reads_are_not(rows):
    ids = some_ids(5000)
    first = version_of(rows.values)
    found = rows.read(ids)
    assert version_of(rows.values) == first
    rows.write(ids, found)
    assert version_of(rows.values) > first


def test_other_rows_go_to_torch(rows):
    ids = some_ids(5000)
    for values in (rows.values.double(), rows.values.bfloat16(), rows.values.t().contiguous().t()):
        if values.dtype != torch.float32 or not values.is_contiguous():
            assert row_passes.row_passes(values, ids) is None
    assert row_passes.row_passes(rows.values, ids[:10]) is None


@pytest.mark.parametrize("wrong", [-1, COUNT])
def test_ids_outside_are_refused(rows, wrong):
    ids = some_ids(5000)
    ids[77] = wrong
    before = rows.values.clone()
    with pytest.raises(IndexError, match=f"0..{COUNT - 1}"):
        rows.subtract(ids, torch.ones(5000, rows.width))
    assert torch.equal(rows.values, before)


def test_changes_of_other_shapes_are_those_of_torch(rows):
    ids, before = some_ids(5000), rows.values.clone()
    change = torch.randn(5000, 1, generator=torch.Generator().manual_seed(3))
    rows.subtract(ids, change)
    assert torch.equal(rows.values, before.index_copy(0, ids, before[ids] - change))
    for wrong in (torch.zeros(3000, rows.width), torch.zeros(5000, rows.width).double()):
        with pytest.raises((IndexError, RuntimeError)):
            rows.write(ids, wrong)

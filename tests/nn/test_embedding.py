"""The tables of all heads as one: rows, columns, padding, sparse gradients, ids that do not fit."""

from __future__ import annotations

import pytest
import torch

from engram.errors import LayoutError
from engram.nn import MultiHeadEmbedding

SIZES = [5, 7, 11]


@pytest.mark.parametrize("stored_rows", [None, 32])
def test_every_column_reads_its_own_part(stored_rows):
    table = MultiHeadEmbedding(SIZES, 4, stored_rows=stored_rows)
    assert table.offsets.tolist() == [0, 5, 12]
    assert table.offsets.dtype == torch.int64
    assert table.embedding.weight.shape == (stored_rows or 23, 4)
    ids = torch.tensor([[[0, 0, 0], [4, 6, 10]], [[2, 3, 4], [1, 1, 1]]])
    out = table(ids)
    assert out.shape == (2, 2, 12)
    weight = table.embedding.weight
    assert torch.equal(out[0, 1], torch.cat([weight[4], weight[11], weight[22]]))
    assert torch.equal(table.rows(ids + table.offsets).flatten(-2), out)
    assert torch.equal(table(ids.int()), out)
    assert sorted(table.state_dict()) == ["embedding.weight", "offsets"]


def test_ids_that_do_not_fit():
    table = MultiHeadEmbedding(SIZES, 4)
    with pytest.raises(LayoutError, match=r"Hash id 7 at \[0, 1\] is not in 0..6"):
        table(torch.tensor([[0, 7, 0]]))
    with pytest.raises(LayoutError, match="2 columns"):
        table(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(LayoutError, match="0 columns"):
        table(torch.tensor(1))
    with pytest.raises(LayoutError, match="must be in 0..22, got -1..23"):
        table.rows(torch.tensor([-1, 23]))


@pytest.mark.parametrize(("sizes", "stored"), [([], None), ([5, 0], None), ([5, 7], 11)])
def test_tables_that_make_no_sense(sizes, stored):
    with pytest.raises(LayoutError, match="Heads must have at least 1 row each"):
        MultiHeadEmbedding(sizes, 4, stored_rows=stored)


@pytest.mark.parametrize("offload", [False, True])
def test_sparse_gradients_equal_dense_ones(offload):
    table = MultiHeadEmbedding(SIZES, 4, offload=offload)
    ids = torch.stack([torch.randint(0, size, (3, 6)) for size in SIZES], dim=-1)
    weight = torch.randn(3, 6, 12)
    (table(ids) * weight).sum().backward()
    dense = table.embedding.weight.grad
    assert dense.layout == torch.strided
    table.embedding.weight.grad = None
    table.embedding.sparse = True
    (table(ids) * weight).sum().backward()
    sparse = table.embedding.weight.grad
    assert sparse.layout == torch.sparse_coo
    torch.testing.assert_close(sparse.to_dense(), dense)
    assert torch.count_nonzero(dense.abs().sum(-1)) == len((ids + table.offsets).unique())
    before = table.embedding.weight.detach().clone()
    torch.optim.SparseAdam(table.parameters(), lr=0.1).step()
    moved = (table.embedding.weight != before).any(dim=-1)
    assert torch.equal(moved, dense.abs().sum(-1) > 0)

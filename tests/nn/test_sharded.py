"""Rows owned by ranks: look-ups and gradients are those of one process."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engram.errors import UsageError
from engram.nn import ShardedEmbedding
from engram.nn.sharded import first_row_of
from support import rank_jobs
from support.near import assert_near
from support.ranks import on_ranks

WIDTH = 5


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ids_of(rows, *shape, seed=0):
    return torch.randint(0, rows, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ranks", "rows"), [(2, 2), (2, 101), (3, 100), (7, 10**9 + 7)])
def test_ranges_are_even_and_cover_the_table(ranks, rows):
    firsts = [first_row_of(rank, ranks, rows) for rank in range(ranks + 1)]
    counts = [end - first for first, end in pairwise(firsts)]
    assert firsts[0] == 0
    assert firsts[-1] == rows
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    ("ranks", "dtype"), [(2, torch.float64), (3, torch.float32), (3, torch.bfloat16)]
)
def test_look_ups_and_gradients_are_those_of_one_process(ranks, dtype, sparse):
    rows = 31
    table = draw(rows, WIDTH, dtype=dtype)
    # Repeated ids, shapes that differ, a rank that asks for rows of one rank only, and one without
    # any ids.
    ids = [ids_of(rows, 4, 9), ids_of(rows // ranks, 50, seed=1)[:, None], ids_of(rows, 0, 2)]
    factors = [draw(*it.shape, WIDTH, dtype=dtype, seed=2) for it in ids]
    found = on_ranks(ranks, rank_jobs.look_up, table, ids, factors, sparse)
    weight = table.double().requires_grad_()
    for rank in range(ranks):
        read = F.embedding(ids[rank], weight)
        assert torch.equal(found[rank][0], read.to(dtype))
        (read * factors[rank]).sum().backward()
    grad = torch.cat([it[1] for it in found])
    if dtype == torch.bfloat16:  # one rounding for each rank that asked, and one for their sum
        torch.testing.assert_close(grad.double(), weight.grad / ranks, rtol=0.02, atol=0.02)
    else:
        assert_near(grad, (weight.grad / ranks).to(dtype))


def test_without_a_group():
    with pytest.raises(UsageError, match="there is none"):
        ShardedEmbedding(nn.Embedding(4, WIDTH), 8)


def test_another_rank_cannot_load_its_rows():
    found = on_ranks(2, rank_jobs.misuse, draw(6, WIDTH))
    assert found == [["MismatchError", "MismatchError", "UsageError"]] * 2

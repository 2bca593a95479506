"""The offloaded table: where it stays, that it trains, and that its cache never shows."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.nn import EngramModule, MultiHeadEmbedding, OffloadEmbedding


def pair(rows: int = 50, width: int = 4, **kwargs) -> tuple[nn.Embedding, OffloadEmbedding]:
    plain, offloaded = nn.Embedding(rows, width), OffloadEmbedding(rows, width, **kwargs)
    offloaded.load_state_dict(plain.state_dict())
    return plain, offloaded


@pytest.mark.parametrize("cache_lines", [0, 1, 3, 16, 50, 1000])
def test_equals_a_plain_embedding_whatever_the_cache_evicts(cache_lines):
    plain, offloaded = pair(cache_lines=cache_lines)
    generator = torch.Generator().manual_seed(cache_lines)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad, torch.no_grad):
        with context():
            for round_ in range(20):
                shape = [(), (7,), (3, 9), (2, 5, 4), (0,), (400,)][round_ % 6]
                ids = torch.randint(0, 50, shape, generator=generator)
                assert torch.equal(offloaded(ids), plain(ids))


def test_the_cache_is_read_and_bounded():
    _, offloaded = pair(cache_lines=8)
    ids = torch.arange(8)
    with torch.no_grad():
        first = offloaded(ids)
        assert torch.equal(offloaded._cached_rows, first)
        # Rows with ids 0..7 have a line each: the second look-up does not ask the table.
        offloaded._cached_rows.neg_()
        assert torch.equal(offloaded(ids), -first)
        offloaded(torch.arange(50))
        assert offloaded._cached_rows.shape == (8, 4)


def test_threads_share_a_cache():
    """A line that another row takes between two steps of a look-up would give that row."""
    plain, offloaded = pair(rows=1000, width=8, cache_lines=16)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def is_right(seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            drawn = (torch.randint(0, 1000, (8,), generator=generator) for _ in range(600))
            return all(torch.equal(offloaded(ids), plain(ids)) for ids in drawn)

    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(is_right, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_a_changed_table_is_seen():
    plain, offloaded = pair(cache_lines=50)
    ids = torch.arange(50)
    for change in (
        lambda weight: weight.add_(1),
        lambda weight: weight[3].zero_(),
        lambda weight: nn.init.normal_(weight, generator=torch.Generator().manual_seed(0)),
    ):
        with torch.no_grad():
            offloaded(ids)
            change(plain.weight)
            change(offloaded.weight)
            assert torch.equal(offloaded(ids), plain(ids))
    for table in (plain, offloaded):
        optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
        table(ids).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(offloaded(ids), plain(ids))
        offloaded.weight.data.zero_()
        offloaded.clear_cache()
        assert not offloaded(ids).any()
        offloaded.load_state_dict(plain.state_dict())
        assert torch.equal(offloaded(ids), plain(ids))
        assert torch.equal(copy.deepcopy(offloaded)(ids), plain(ids))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cache_lines", [0, 4])
def test_the_table_is_trained(sparse, cache_lines):
    plain, offloaded = pair(sparse=sparse, cache_lines=cache_lines)
    ids = torch.randint(0, 50, (3, 30))
    weight = torch.randn(3, 30, 4)
    for table in (plain, offloaded):
        (table(ids) * weight).sum().backward()
    assert offloaded.weight.requires_grad
    assert offloaded.weight.grad.is_sparse == sparse
    torch.testing.assert_close(offloaded.weight.grad.to_dense(), plain.weight.grad)


def test_stays_on_the_host_when_the_module_moves():
    config = EngramConfig(
        hidden_size=8,
        engram_vocab_size=300,
        engram_table_size=[90, 90],
        n_embed_per_ngram=8,
        n_head_per_ngram=2,
        layer_ids=[1],
        pad_id=0,
        use_offload=True,
        offload_cache_lines=4,
    )
    module = EngramModule(config, head_primes(config)[1])
    table = module.multi_head_embedding.embedding
    assert isinstance(table, OffloadEmbedding)
    assert table.cache_lines == 4
    weight = table.weight
    # Fake tensors stand in for a GPU's: only an empty one may be sent there.
    for dtype in (torch.float32, torch.bfloat16):
        sent = []

        def to_gpu(tensor, dtype=dtype, sent=sent):
            sent.append(tensor.numel())
            with FakeTensorMode(allow_non_fake_inputs=True):
                return torch.empty_like(tensor, dtype=dtype, device="cuda")

        table._apply(to_gpu)
        assert sent == [0]
        assert table.weight is weight
        assert weight.device.type == "cpu"
        assert weight.dtype == dtype
    module.double()
    assert table.weight.dtype == torch.float64
    module.to("meta")
    assert table.weight.is_meta
    module.to_empty(device="cpu").reset_parameters()
    ids = torch.zeros(1, 3, 4, dtype=torch.int64)
    assert module(torch.randn(1, 3, 8, dtype=torch.float64), ids).isfinite().all()


def test_a_table_in_memory_is_kept_on_the_host_as_it_is():
    heads = MultiHeadEmbedding([5, 7], 3, sparse=True, dtype=torch.bfloat16)
    weight, ids = heads.embedding.weight, torch.randint(0, 5, (4, 2))
    before = heads(ids)
    heads.keep_on_host()
    assert isinstance(heads.embedding, OffloadEmbedding)
    assert heads.embedding.weight is weight
    assert heads.embedding.sparse
    assert torch.equal(heads(ids), before)
    assert list(heads.state_dict()) == ["offsets", "embedding.weight"]
    kept = heads.embedding
    heads.keep_on_host()
    assert heads.embedding is kept


def test_a_module_reads_the_same_from_an_offloaded_table():
    values = {
        "hidden_size": 8,
        "engram_vocab_size": 300,
        "engram_table_size": [90, 90],
        "n_embed_per_ngram": 8,
        "n_head_per_ngram": 2,
        "layer_ids": [1],
        "pad_id": 0,
    }
    plain_config = EngramConfig(**values)
    primes = head_primes(plain_config)[1]
    plain = EngramModule(plain_config, primes)
    offloaded = EngramModule(EngramConfig(**values, use_offload=True), primes)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    offloaded.load_state_dict(plain.state_dict())
    ids = (torch.rand(2, 9, 4) * torch.tensor([p for row in primes for p in row])).long()
    hidden = torch.randn(2, 9, 8)
    assert torch.equal(offloaded(hidden, ids), plain(hidden, ids))
    for module in (plain, offloaded):
        module(hidden, ids).sum().backward()
    for (name, mine), theirs in zip(offloaded.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    compiled = torch.compile(offloaded, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(hidden, ids), plain(hidden, ids))
    with torch.device("meta"):
        built = EngramModule(EngramConfig(**values, use_offload=True), primes)
    assert built.multi_head_embedding.embedding.weight.is_meta
    built.load_state_dict(plain.state_dict(), assign=True)
    assert torch.equal(built(hidden, ids), plain(hidden, ids))

"""Tables shared by processes: trained, saved and loaded as by one process."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import nn

from engram.errors import CorruptFileError, UsageError
from engram.nn.rows import RamRows
from engram.training import shards
from support import rank_jobs, tiny
from support.ranks import on_ranks

KINDS = ("ddp", "fsdp2")
FLOAT64 = {"dtype": torch.float64, "micro_batches": 2}


@cache
def alone(**options):
    """What one process does with the whole of every batch."""
    return rank_jobs.train("one", lr=1e-3, **options)


def by_ranks(ranks, kind, **options):
    return on_ranks(ranks, partial(rank_jobs.train, kind, lr=1e-3, **options))


def compare(found, expected, relative, absolute):
    """Compare losses and norms by a relative bound, tables and their state by an absolute one."""
    losses = sum(it["losses"] for it in found) / len(found)
    assert expected["losses"][-1] < expected["losses"][0] - 0.1
    torch.testing.assert_close(losses, expected["losses"], rtol=relative, atol=0)
    for it in found:
        torch.testing.assert_close(it["norms"], expected["norms"], rtol=relative, atol=0)
    for number, table in enumerate(expected["tables"]):
        rows = torch.cat([it["tables"][number] for it in found])
        torch.testing.assert_close(rows, table, rtol=0, atol=absolute)
        assert expected["state"][number]
        for name, column in expected["state"][number].items():
            state = torch.cat([it["state"][number][name] for it in found])
            torch.testing.assert_close(state, column, rtol=0, atol=absolute)


BY_RANKS = pytest.mark.parametrize(
    ("ranks", "kind"),
    [(2, "ddp"), (2, "fsdp2"), *(pytest.param(3, it, marks=pytest.mark.slow) for it in KINDS)],
)


@BY_RANKS
def test_ranks_equal_one_process_in_float32(ranks, kind):
    compare(by_ranks(ranks, kind), alone(), 1e-6, 1e-5)


@pytest.mark.slow
@BY_RANKS
def test_ranks_equal_one_process_in_float64(ranks, kind):
    """With accumulated gradients, and layers that are computed again in the backward pass."""
    found = by_ranks(ranks, kind, is_checkpointed=True, **FLOAT64)
    compare(found, alone(**FLOAT64), 1e-12, 1e-12)


def test_state_as_wide_as_the_rows():
    options = {"table_optimizer": "sparse-adam", "table_lr": 0.01, **FLOAT64}
    compare(by_ranks(2, "ddp", **options), alone(**options), 1e-12, 1e-12)


def test_tables_in_files(tmp_path):
    found = by_ranks(2, "ddp", files=tmp_path, **FLOAT64)
    compare(found, alone(**FLOAT64), 1e-12, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_every_rank_holds_equal_one_process(kind):
    found = by_ranks(2, kind, is_shared=False, **FLOAT64)
    for it in found:
        losses = sum(other["losses"] for other in found) / 2
        compare([{**it, "losses": losses}], alone(**FLOAT64), 1e-12, 1e-12)
    for one, other in zip(*(it["tables"] for it in found), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_clipped_norm_is_that_of_dense_copies(kind):
    """After two micro-batches that read the same rows again."""
    expected = rank_jobs.dense_norm(2)
    for is_shared in (True, False):
        for it in by_ranks(2, kind, steps=1, micro_batches=2, is_shared=is_shared):
            assert it["norms"][0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "block_bytes"), [(torch.float32, 2**24), (torch.bfloat16, 24)])
def test_saved_by_any_number_of_ranks_and_loaded_by_any_other(tmp_path, dtype, block_bytes):
    table = torch.randn(29, 3).to(dtype)
    files = {ranks: tmp_path / f"{ranks}.safetensors" for ranks in (1, 2, 3)}
    for ranks, file in files.items():
        on_ranks(ranks, rank_jobs.write, file, table, block_bytes)
    assert files[1].read_bytes() == files[2].read_bytes() == files[3].read_bytes()
    for ranks in (1, 3):
        found = on_ranks(ranks, rank_jobs.read, files[2], *table.shape, dtype, block_bytes)
        assert torch.equal(torch.cat([rows for rows, _ in found]), table)
        assert torch.cat([column for _, column in found]).flatten().tolist() == list(range(29))


def test_a_file_that_ends_early(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(bytes(8 + 3 * 4 * 5 - 1))
    with pytest.raises(CorruptFileError, match="ends before row 5"):
        shards.read_rows(path, 8, RamRows(torch.zeros(5, 3)))


def test_a_model_with_shared_tables(tmp_path_factory):
    folder = tiny.family_folders("llama", tmp_path_factory)[1]
    found = on_ranks(2, rank_jobs.share, folder)
    for before, after, said, _ in found:
        assert after == before
        assert said == ["UsageError", "UsageError"]
    totals = [sum(held) for held in zip(*(held for *_, held in found), strict=True)]
    assert totals == [counts["table"] for counts in found[0][0]]
    assert not (folder / "never").exists()


def test_without_a_group():
    with pytest.raises(UsageError, match="there is none"):
        shards.shard_tables(rank_jobs.Toy())
    frozen = rank_jobs.Toy().requires_grad_(False)
    shards.shard_tables(frozen)
    assert shards.table_parameters(frozen) == set()
    assert shards.table_parameters(nn.Linear(1, 1)) == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*kernels:UserWarning")
def test_an_unmodified_trainer_on_two_ranks_equals_one_process(tmp_path, tmp_path_factory):
    folder = tiny.family_folders("llama", tmp_path_factory)[1]
    expected = rank_jobs.trainer(folder, "one", tmp_path)
    for kind in ("whole", "shared"):
        found = on_ranks(2, rank_jobs.trainer, folder, kind, tmp_path)
        for it in found:
            assert it["losses"] == pytest.approx(expected["losses"], rel=1e-6)
            for name, weight in expected["others"].items():
                torch.testing.assert_close(it["others"][name], weight, rtol=0, atol=1e-6)
        for number, table in enumerate(expected["tables"]):
            rows = [it["tables"][number] for it in found]
            if kind == "whole":
                assert torch.equal(*rows)
            rows = torch.cat(rows) if kind == "shared" else rows[0]
            # Gates near zero, where their root is steep, let roundings grow.
            torch.testing.assert_close(rows, table, rtol=0, atol=5e-5)

"""Tables on disk: the rows of the file, whatever is asked for, by whom and how often."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.errors import (
    CorruptFileError,
    InputError,
    LayoutError,
    MismatchError,
    MissingFileError,
)
from engram.nn import DiskEmbedding, EngramModule, MultiHeadEmbedding
from engram.nn.disk import prefetch
from engram.storage import row_file
from engram.storage.row_file import RowFile

START, ROWS, WIDTH = 13, 1009, 6  # nothing is aligned to anything
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def stored(path, dtype=torch.float32, rows=ROWS, width=WIDTH):
    """Write a random table behind some other bytes, and return it."""
    table = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    path.write_bytes(b"x" * START + table.view(torch.uint8).numpy().tobytes() + b"tail")
    return table


@pytest.fixture(params=[0, 1, 2, 3, 7, 8, 9, 100, ROWS, 10 * ROWS])
def cache_rows(request):
    return request.param


@pytest.fixture
def table(tmp_path):
    return stored(tmp_path / "table")


@pytest.fixture
def disk(tmp_path, table):
    return DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH, cache_rows=50)


def forget(path):
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_those_of_the_table(tmp_path, dtype, cache_rows):
    table = stored(tmp_path / "table", dtype)
    generator = torch.Generator().manual_seed(1)
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH, dtype, cache_rows=cache_rows)
    for shape in [(1,), (0,), (3, 0, 2), (), (2000,), (3, 5, 7), (1500, 2), (40,)]:
        for highest in (1, 20, ROWS):  # the same rows again and again, and any
            ids = torch.randint(0, highest, shape, generator=generator)
            rows = disk(ids)
            assert rows.dtype == dtype
            assert torch.equal(rows, table[ids])
    edges = torch.tensor([ROWS - 1, 0, ROWS - 1, 0, 0])
    assert torch.equal(disk(edges), table[edges])
    assert torch.equal(disk(edges.int()), table[edges])
    assert torch.equal(disk(torch.arange(ROWS)), table)


def test_rows_that_are_not_in_memory(tmp_path):
    table = stored(tmp_path / "table", rows=200_000)
    generator = torch.Generator().manual_seed(2)
    for count in (3, 512, 513, 20_000):
        disk = DiskEmbedding(tmp_path / "table", START, 200_000, WIDTH)
        forget(tmp_path / "table")
        ids = torch.randint(0, 200_000, (count,), generator=generator)
        assert torch.equal(disk(ids), table[ids])
        del disk  # mapped pages cannot be dropped


@pytest.mark.parametrize("can_ask", [False, True])
def test_systems_that_can_do_less(tmp_path, monkeypatch, can_ask):
    monkeypatch.setattr(row_file, "_CAN_ASK", can_ask)
    monkeypatch.setattr(row_file, "_CAN_SAMPLE", False)
    table = stored(tmp_path / "table")
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH)
    ids = torch.randint(0, ROWS, (2000,))
    prefetch([(disk, ids[:9])])
    assert torch.equal(disk(ids), table[ids])
    blocks = np.vstack(list(disk.file.blocks()))
    assert torch.equal(torch.from_numpy(blocks), table.view(torch.uint8))


def test_a_cache_returns_what_was_asked_even_if_it_holds_less(tmp_path):
    table = stored(tmp_path / "table")
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH, cache_rows=16)
    same_set = torch.arange(0, ROWS, 2).repeat(2)  # far more rows than lines, of one set of two
    for ids in (same_set, same_set.flip(0), same_set):
        assert torch.equal(disk(ids), table[ids])


def test_rows_that_are_read_again_stay_in_the_cache(disk, monkeypatch):
    hot = torch.arange(0, 40)
    disk(hot)
    read = []
    real = RowFile.read
    monkeypatch.setattr(
        RowFile, "read", lambda self, ids, out: (read.extend(ids.tolist()), real(self, ids, out))
    )
    disk(hot)
    assert read == []
    for start in range(100, 900, 8):  # rows that are read once
        disk(torch.arange(start, start + 8))
        disk(hot)
    assert len(set(read) & set(hot.tolist())) < 8


def test_prefetch_then_look_up(tmp_path, cache_rows):
    table = stored(tmp_path / "table")
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH, cache_rows=cache_rows)
    for count in (2, 3000):
        forget(tmp_path / "table")
        ids = torch.randint(0, ROWS, (count, 2))
        prefetch([(disk, ids), (disk, ids[:0])])
        assert torch.equal(disk(ids), table[ids])
    for thread in threading.enumerate():
        if thread.name == "engram-prefetch":
            thread.join(10)


def test_threads_at_once(tmp_path, table, cache_rows):
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH, cache_rows=cache_rows)
    wrong = []

    def look_up(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(40):
            ids = torch.randint(0, ROWS, (300,), generator=generator)
            if not torch.equal(disk(ids), table[ids]):
                wrong.append(seed)

    threads = [threading.Thread(target=look_up, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_copies_and_pickles(tmp_path, disk, table):
    ids = torch.tensor([5, 0, ROWS - 1, 5])
    assert torch.equal(disk(ids), table[ids])
    copied, shallow = copy.deepcopy(disk), copy.copy(disk)
    assert copied.source is disk.source
    again = pickle.loads(pickle.dumps(disk.half()))
    assert again.source.lines == 50
    assert again(ids).dtype == torch.float16
    for other in (copied, shallow, again):
        assert torch.equal(other(ids), table[ids].to(other.dtype))
    disk = None
    assert torch.equal(copied(ids), table[ids])
    assert len(pickle.dumps(copied)) < 2000
    (tmp_path / "table").unlink()
    assert torch.equal(copied(ids), table[ids])
    with pytest.raises(MissingFileError, match="table"):
        pickle.loads(pickle.dumps(copied))


def test_a_fork_reads_on(disk, table):
    ids = torch.arange(200)
    disk(ids[:100])
    with disk.source._lock:  # as if another thread were reading
        child = os.fork()
        if not child:
            os._exit(0 if torch.equal(disk(ids), table[ids]) else 1)
    assert os.waitpid(child, 0)[1] == 0


test_a_fork_reads_on = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")(
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test_a_fork_reads_on)
)


@pytest.mark.parametrize("bad", [[0, ROWS], [-1, 3], [2**40]])
def test_rows_outside_of_the_table(disk, bad):
    with pytest.raises(IndexError, match=f"0..{ROWS - 1}"):
        disk(torch.tensor(bad))


def test_files_that_are_no_table(tmp_path, table):
    path = tmp_path / "table"
    with pytest.raises(MissingFileError, match="nowhere"):
        DiskEmbedding(tmp_path / "nowhere", 0, 1, 1)
    with pytest.raises(MissingFileError):
        DiskEmbedding(tmp_path, 0, 1, 1)
    with pytest.raises(CorruptFileError, match="must have at least"):
        DiskEmbedding(path, START + 5, ROWS, WIDTH)
    DiskEmbedding(path, START + 4, ROWS, WIDTH)  # up to the last byte
    with pytest.raises(CorruptFileError):
        DiskEmbedding(path, 0, 2**40, WIDTH)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(CorruptFileError):
        DiskEmbedding(tmp_path / "empty", 0, 1, 1)
    with pytest.raises(InputError, match="int8"):
        DiskEmbedding(path, 0, 1, 1, torch.int8)
    with pytest.raises(InputError, match="^cache_rows must be >= 0, got -1"):
        DiskEmbedding(path, 0, 1, 1, cache_rows=-1)
    with pytest.raises(InputError, match="got 0, 4 and 0"):
        DiskEmbedding(path, 0, 0, 1)


def test_a_file_that_is_cut_short_later(tmp_path, disk):
    with (tmp_path / "table").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CorruptFileError, match="got 100"):
        disk(torch.tensor([ROWS - 1]))


def test_a_file_that_is_replaced_keeps_its_rows(tmp_path, disk, table):
    (tmp_path / "new").write_bytes(b"short")
    (tmp_path / "new").replace(tmp_path / "table")
    ids = torch.arange(ROWS)
    assert torch.equal(disk(ids), table)


def test_dtype_follows_the_module_and_the_file_stays(disk, table):
    ids = torch.arange(0, ROWS, 3)
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        rows = disk.to(dtype)(ids)
        assert rows.dtype == dtype
        assert torch.equal(rows, table[ids].to(dtype))
    assert disk.stored_dtype == torch.float32
    assert disk.state_dict() == {}
    assert list(disk.parameters()) == []


def test_compiled_without_breaks(disk, table):
    def double(ids):
        return disk(ids) * 2

    for backend in ("eager", "aot_eager"):
        compiled = torch.compile(double, backend=backend, fullgraph=True)
        for count in (3, 7):
            ids = torch.arange(count)
            assert torch.equal(compiled(ids), table[ids] * 2)


def test_a_table_larger_than_memory(tmp_path):
    """64 GiB by name, of which only what is read takes up memory."""
    rows, row_bytes = 2**28, 256
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(START + rows * row_bytes)
        file.seek(START + (rows - 1) * row_bytes)
        file.write(np.full(64, 7, dtype="<f4").tobytes())
    code = f"""
import resource, torch
from engram.nn import DiskEmbedding
def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = used()
for cache_rows in (0, 10_000):
    disk = DiskEmbedding({str(tmp_path / "sparse")!r}, {START}, {rows}, 64, cache_rows=cache_rows)
    for seed in range(3):
        ids = torch.randint(0, {rows - 1}, (3000,))
        assert not disk(ids).any()
    assert (disk(torch.tensor([{rows - 1}, 0])) == torch.tensor([[7.0], [0.0]])).all()
assert used() - before < 200e6, used() - before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


CONFIG = EngramConfig(
    hidden_size=12,
    engram_vocab_size=60,
    engram_table_size=[80, 120],
    n_embed_per_ngram=8,
    n_head_per_ngram=2,
    layer_ids=[3],
    pad_id=0,
)
PRIMES = head_primes(CONFIG)[3]
PRIME_ROWS = sum(prime for primes in PRIMES for prime in primes)


@pytest.fixture
def module(tmp_path):
    """A module with its table on disk, and the same in memory."""
    table = stored(tmp_path / "heads", rows=PRIME_ROWS, width=4)
    plain = EngramModule(CONFIG, PRIMES)
    with torch.no_grad():
        for parameter in plain.parameters():
            torch.nn.init.normal_(parameter)
        plain.multi_head_embedding.embedding.weight.copy_(table)
    disk = DiskEmbedding(tmp_path / "heads", START, PRIME_ROWS, 4)
    module = EngramModule(CONFIG, PRIMES, table=disk)
    dense = {name: value for name, value in plain.state_dict().items() if "g.weight" not in name}
    module.load_state_dict(dense)
    return module, plain


def inputs():
    sizes = torch.tensor([prime for primes in PRIMES for prime in primes])
    return torch.randn(2, 5, 12), (torch.rand(2, 5, len(sizes)) * sizes).long()


def test_a_module_computes_the_same(module):
    on_disk, plain = module
    hidden, ids = inputs()
    with torch.no_grad():
        assert torch.equal(on_disk(hidden, ids), plain(hidden, ids))
        on_disk.double(), plain.double()
        assert torch.equal(on_disk(hidden.double(), ids), plain(hidden.double(), ids))
    assert on_disk.count_parameters() == plain.count_parameters()
    on_disk.reset_parameters()
    heads = on_disk.multi_head_embedding
    with pytest.raises(LayoutError, match="Row ids must be"):
        heads.rows(torch.tensor([PRIME_ROWS]))
    with pytest.raises(LayoutError, match="Hash id"):
        heads(torch.full((1, 1, 4), PRIMES[1][1] + 1))


def test_training_a_table_on_disk_is_refused(module):
    on_disk, _ = module
    hidden, ids = inputs()
    with pytest.raises(LayoutError, match='tables="ram"'):
        on_disk(hidden, ids)
    with torch.no_grad():
        on_disk(hidden, ids)
    out = on_disk.eval()(hidden, ids)
    with pytest.raises(LayoutError, match="cannot be trained"):
        out.sum().backward()


def test_training_around_a_frozen_table(module):
    on_disk, plain = module
    hidden, ids = inputs()
    on_disk.multi_head_embedding.embedding.requires_grad_(False)
    plain.multi_head_embedding.embedding.requires_grad_(False)
    for one in module:
        one(hidden, ids).square().sum().backward()
    for (name, got), expected in zip(
        on_disk.named_parameters(),
        [item for name, item in plain.named_parameters() if "g.weight" not in name],
        strict=True,
    ):
        assert torch.equal(got.grad, expected.grad), name
        assert got.grad.any(), name


def test_a_frozen_module_is_trained_through(module):
    """As an adapter on a frozen backbone does."""
    on_disk, _ = module
    hidden, ids = inputs()
    on_disk.requires_grad_(False)
    hidden.requires_grad_()
    on_disk(hidden, ids).sum().backward()
    assert hidden.grad.any()


def test_a_table_of_another_shape_is_refused(tmp_path):
    stored(tmp_path / "table")
    disk = DiskEmbedding(tmp_path / "table", START, ROWS, WIDTH)
    with pytest.raises(MismatchError, match=f"{ROWS} rows of {WIDTH}"):
        MultiHeadEmbedding([11, 13], WIDTH, table=disk)

"""Tables that are trained in their files: the rows and gradients of a table in memory."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engram.errors import InputError, LayoutError, MismatchError
from engram.nn import FileEmbedding, MultiHeadEmbedding
from engram.nn.file_table import FileRows
from engram.nn.rows import RamRows, rows_of
from engram.storage.row_journal import Journal, recover
from engram.storage.safetensors_headers import read_header
from engram.storage.table_files import copy_table, make_zeros
from engram.training import MemoryOptimizer

ROWS, WIDTH = 211, 6
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


def random_table(dtype=torch.float32, seed=0):
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stored(folder, dtype=torch.float32):
    """Write a random table behind another tensor; returns it."""
    table = random_table(dtype)
    save_file({"a": torch.ones(3, dtype=torch.int8), "w": table}, folder / "t.safetensors")
    return table


def opened(folder, **part):
    journal = Journal(folder)
    rows = FileRows(journal, read_header(folder / "t.safetensors")["w"], **part)
    return journal, FileEmbedding(rows)


@pytest.fixture
def table(tmp_path):
    return stored(tmp_path)


@pytest.fixture
def pair(tmp_path, table):
    """The journal, the table in its file, and the same in memory."""
    journal, in_file = opened(tmp_path)
    yield journal, in_file, nn.Embedding.from_pretrained(table.clone(), freeze=False, sparse=True)
    journal.close()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_look_ups_and_gradients_are_those_of_a_table_in_memory(tmp_path, dtype):
    table = stored(tmp_path, dtype)
    _, in_file = opened(tmp_path)
    in_ram = nn.Embedding.from_pretrained(table, freeze=False, sparse=True)
    generator = torch.Generator().manual_seed(1)
    for shape in [(), (7,), (3, 0, 2), (5, 40), (2, 3, 4)]:
        for highest in (3, ROWS):  # with many duplicates, and with few
            ids = torch.randint(0, highest, shape, generator=generator)
            weight = torch.randn(*shape, WIDTH, generator=generator).to(dtype)
            with torch.no_grad():
                assert torch.equal(in_file(ids), table[ids])
            grads = []
            for module in (in_file, in_ram):
                module.weight.grad = None
                rows = module(ids if module is in_ram else ids.int())
                assert rows.dtype == dtype
                assert torch.equal(rows, table[ids])
                (rows * weight).sum().backward()
                assert module.weight.grad.is_sparse
                grads.append(module.weight.grad.coalesce().to_dense())
            assert torch.equal(*grads)
    with pytest.raises(IndexError):
        in_file(torch.tensor([ROWS]))
    with pytest.raises(IndexError):
        in_file(torch.tensor([-1]))


def test_written_rows_are_read_at_once_and_stored_by_a_commit(tmp_path, pair, table):
    journal, in_file, _ = pair
    assert rows_of(in_file) is in_file.rows
    every, ids = torch.arange(ROWS), torch.tensor([200, 3, 4, 5, 0])
    state = in_file.rows.column("sum", 1, torch.float64)
    expected, sums = table.clone(), torch.zeros(ROWS, 1, dtype=torch.float64)
    for step in range(3):
        new = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(step))
        in_file.rows.write(ids + step, new)
        state.write(ids + step, new[:, :1].double())
        expected[ids + step], sums[ids + step] = new, new[:, :1].double()
        assert torch.equal(in_file(every), expected)
        assert torch.equal(in_file.rows.read(every), expected)
        assert torch.equal(state.read(every), sums)
    assert torch.equal(load_file(tmp_path / "t.safetensors")["w"], table)
    journal.commit({"step": 3})
    assert torch.equal(load_file(tmp_path / "t.safetensors")["w"], expected)
    assert torch.equal(load_file(tmp_path / "t.sum.safetensors")["sum"], sums)
    assert torch.equal(in_file.weight.detach(), expected)
    in_file.rows.write(ids, torch.zeros(5, WIDTH))
    journal.close()
    assert recover(tmp_path) == {"step": 3}
    again, in_file = opened(tmp_path)
    assert torch.equal(in_file(every), expected)
    # A column that is there is gone on with.
    assert torch.equal(in_file.rows.column("sum", 1, torch.float64).read(every), sums)
    with pytest.raises(MismatchError, match=r"t.sum.safetensors must hold sum of F32 \[211, 1\]"):
        in_file.rows.column("sum", 1, torch.float32)
    again.close()


def test_ranks_have_ranges_of_one_file(tmp_path, table):
    journals = [Journal(tmp_path, part) for part in range(2)]
    info = read_header(tmp_path / "t.safetensors")["w"]
    halves = [
        FileEmbedding(FileRows(journal, info, first, count))
        for journal, first, count in zip(journals, (0, 100), (100, ROWS - 100), strict=True)
    ]
    assert [half.rows.first_row for half in halves] == [0, 100]
    assert [half.weight.shape[0] for half in halves] == [100, ROWS - 100]
    assert torch.equal(halves[1](torch.tensor([0, 5])), table[[100, 105]])
    for half in halves:
        state = half.rows.column("sum", 1, torch.float32)
        ids = torch.tensor([half.rows.count - 1])
        half.rows.write(ids, torch.ones(1, WIDTH))
        state.write(ids, torch.ones(1, 1))
    for step in ("prepare", "mark", "copy", "finish", "forget"):
        if step == "mark":
            journals[0].mark({"step": 1})
        elif step == "finish":
            journals[1].finish()
        else:
            for journal in journals:
                getattr(journal, step)()
    table[[99, ROWS - 1]] = 1
    assert torch.equal(load_file(tmp_path / "t.safetensors")["w"], table)
    assert load_file(tmp_path / "t.sum.safetensors")["sum"].nonzero()[:, 0].tolist() == [99, 210]
    for journal in journals:
        journal.close()


class Model(nn.Module):
    """Two heads' table under a linear layer."""

    def __init__(self, table):
        super().__init__()
        self.heads = MultiHeadEmbedding([111, 100], WIDTH, table=table)
        if table is None:
            self.heads.embedding.weight.data.copy_(random_table())
        self.linear = nn.Linear(2 * WIDTH, 3)

    def forward(self, ids):
        return self.linear(self.heads(ids))


@pytest.mark.parametrize("rule", ["rowwise-adagrad", "sparse-adam", "momentum"])
def test_trains_as_in_memory_and_goes_on_after_a_commit(tmp_path, pair, rule):
    journal, in_file, _ = pair

    def train(model, steps, first=0):
        optimizer = MemoryOptimizer(model, table_optimizer=rule)
        losses = []
        for step in range(first, first + steps):
            ids = torch.randint(0, 20, (4, 9, 2), generator=torch.Generator().manual_seed(step))
            for part in ids.chunk(2):  # accumulated
                loss = model(part).square().mean()
                loss.backward()
                losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        return losses, optimizer

    torch.manual_seed(0)
    first, second = Model(None), Model(in_file)
    second.linear.load_state_dict(first.linear.state_dict())
    expected, ram = train(first, 6)
    losses, disk = train(second, 6)
    assert losses == expected
    assert ram.last_grad_norm == disk.last_grad_norm
    every = torch.arange(ROWS)
    assert torch.equal(in_file.rows.read(every), first.heads.embedding.weight)
    for name, column in ram.tables[0].columns.items():
        assert torch.equal(disk.tables[0].columns[name].read(every), column.read(every))
    journal.commit({"step": 6})
    assert torch.equal(in_file.weight, first.heads.embedding.weight)


def test_stays_where_it_is_when_the_module_moves(pair, table):
    _, in_file, _ = pair
    ids = torch.tensor([[3, 3, 210]])
    in_file.to(torch.bfloat16)
    rows = in_file(ids)
    assert torch.equal(rows, table[ids].bfloat16())
    rows.float().sum().backward()
    assert in_file.weight.dtype == in_file.weight.grad.dtype == torch.float32
    assert in_file.weight.grad.to_dense()[3].tolist() == [2.0] * WIDTH
    in_file.double().to("meta")
    assert torch.equal(in_file(ids), table[ids].double())
    in_file.requires_grad_(False)
    assert not in_file(ids).requires_grad


def test_is_counted_and_left_out_of_state_dicts(pair):
    _, in_file, _ = pair
    model = Model(in_file)
    assert sum(p.numel() for p in in_file.parameters()) == ROWS * WIDTH
    assert model.heads.embedding is in_file
    state = model.state_dict()
    assert sorted(state) == ["heads.offsets", "linear.bias", "linear.weight"]
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*heads.embedding.weight"):
        model.load_state_dict({**state, "heads.embedding.weight": torch.zeros(ROWS, WIDTH)})
    model.heads.reset_parameters()
    assert in_file(torch.arange(ROWS)).any()


def test_rows_that_are_not_committed_are_not_saved(pair):
    journal, in_file, _ = pair
    assert in_file.stored["weight"][0].rows == ROWS
    in_file.rows.write(torch.tensor([1, 2]), torch.ones(2, WIDTH))
    with pytest.raises(InputError, match=r"2 rows of .*t.safetensors have been changed"):
        _ = in_file.stored
    journal.commit({})
    assert in_file.stored["weight"][0].rows == ROWS


def test_mistakes_are_told(tmp_path, pair):
    journal, in_file, _ = pair
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="cannot be copied or pickled"):
            copied(in_file)
    with pytest.raises(MismatchError, match="is trained there and has 211 rows of 6"):
        MultiHeadEmbedding([5], WIDTH, table=in_file)
    save_file({"w": torch.zeros(4, 4, dtype=torch.int8)}, tmp_path / "int.safetensors")
    with pytest.raises(LayoutError, match=r"A table of I8 \[4, 4\] cannot be trained"):
        FileRows(journal, read_header(tmp_path / "int.safetensors")["w"])
    with torch.no_grad():
        in_file.weight[3] = 7.0
    with pytest.raises(InputError, match="was written to, which does not change the table"):
        in_file(torch.tensor([3]))
    assert not (load_file(tmp_path / "t.safetensors")["w"] == 7.0).any()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of dynamo itself
def test_a_module_around_it_compiles(pair, table):
    _, in_file, _ = pair
    compiled = torch.compile(Model(in_file), backend="eager")
    ids = torch.tensor([[[3, 4]]])
    compiled(ids).sum().backward()
    assert in_file.weight.grad.coalesce().indices().tolist() == [[3, 115]]


def test_files_of_one_table_start_at_a_page(tmp_path, table, monkeypatch):
    info = read_header(tmp_path / "t.safetensors")["w"]
    for name in ("kernel", "stream"):
        seen, path = [], tmp_path / f"{name}.safetensors"
        copy_table(info, path, "other", seen.append)
        assert torch.equal(load_file(path)["other"], table)
        assert read_header(path)["other"].start % 4096 == 0
        assert sum(seen) == ROWS * WIDTH * 4
        monkeypatch.delattr("os.copy_file_range", raising=False)
    zeros = tmp_path / "zeros.safetensors"
    make_zeros(zeros, "z", "BF16", (10**6, 64))
    assert zeros.stat().st_size == read_header(zeros)["z"].start + 10**6 * 128
    assert load_file(zeros)["z"].shape == (10**6, 64)
    assert not RamRows(load_file(zeros)["z"]).read(torch.tensor([999_999])).any()

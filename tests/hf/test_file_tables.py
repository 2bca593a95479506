"""Attached models that train their tables in files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import engram
from engram import ReportOptions
from engram.errors import InputError, MissingFileError, UsageError
from engram.hf.file_tables import copy_tables, trainable_on_disk
from engram.nn import FileEmbedding
from engram.sizing.optimizers import optimizer_of
from engram.storage.safetensors_headers import read_header
from engram.training import MemoryOptimizer, freeze_backbone
from support import tiny

IDS = torch.randint(3, tiny.VOCAB, (2, 19), generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An attached checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("llama")
    base = tiny.base_model("llama", folder / "base")
    model = tiny.randomise(engram.load(tiny.attached_model(base, folder / "attached")))
    model.save_pretrained(folder / "random")
    return folder / "random"


def train(model, steps, **options):
    freeze_backbone(model)
    optimizer = MemoryOptimizer(model.train(), **options)
    losses = []
    for step in range(steps):
        ids = torch.randint(3, tiny.VOCAB, (2, 19), generator=torch.Generator().manual_seed(step))
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_model_trains_in_files_as_in_memory_and_is_saved(folder, tmp_path):
    in_ram, in_files = engram.load(folder), engram.load(folder, tables="disk")
    told, work = [], tmp_path / "work"
    copy_tables(in_files, work, lambda *bytes_: told.append(bytes_))
    assert told[-1][0] == told[-1][1] > 0
    journal = trainable_on_disk(in_files, work)
    assert journal.committed is None
    tables = [it for it in in_files.modules() if isinstance(it, FileEmbedding)]
    assert len(tables) == len(list(work.glob("table-*.safetensors"))) > 0
    assert torch.equal(logits(in_files), logits(in_ram))
    assert train(in_files, 4) == train(in_ram, 4)
    after = logits(in_ram)
    assert torch.equal(logits(in_files), after)
    with pytest.raises(InputError, match="have been changed since the last commit"):
        in_files.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    journal.commit({"step": 4})
    in_files.save_pretrained(tmp_path / "saved")
    for place in ("ram", "disk"):
        assert torch.equal(logits(engram.load(tmp_path / "saved", tables=place)), after)
    journal.close()


def test_a_model_goes_on_from_the_last_commit(folder, tmp_path):
    work = tmp_path / "work"
    model = engram.load(folder, tables="disk")
    with pytest.raises(MissingFileError, match="table-"):
        trainable_on_disk(model, work)
    copy_tables(model, work)
    journal = trainable_on_disk(model, work)
    train(model, 2)
    journal.commit({"step": 2})
    held = {path.name: load_file(path) for path in work.glob("*.safetensors")}
    train(model, 2)
    journal.close()
    again = engram.load(folder, tables="disk")
    copy_tables(again, work)
    journal = trainable_on_disk(again, work)
    assert journal.committed == {"step": 2}
    assert len(held) > 2
    for name, tensors in held.items():
        for key, values in load_file(work / name).items():
            assert torch.equal(values, tensors[key])
    journal.close()
    with pytest.raises(UsageError, match="no table on disk"):
        copy_tables(engram.load(folder), work)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Attached checkpoints whose tables lie on many pages, by dtype."""
    folder = tmp_path_factory.mktemp("large")
    base = tiny.base_model("llama", folder / "base")
    config = tiny.memory_config(engram_table_size=[40_002, 40_006, 50_014])
    return {
        dtype: tiny.attached_model(base, folder / dtype, config, dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "momentum"])
def test_files_take_what_report_says(large, tmp_path, rule, dtype):
    steps, work = 6, tmp_path / "work"
    options = ReportOptions(
        mode="training",
        train="memory",
        optimizer=optimizer_of(rule),
        tables="disk",
        batch=IDS.shape[0],
        context=IDS.shape[1],
        save_every=steps,
    )
    use = engram.report(large[dtype], options=options).use
    stated = {(row.part, row.place): row.size_bytes for row in use.rows if row.is_table}
    tables = sum(size for (part, _), size in stated.items() if part.endswith(".table"))
    model = engram.load(large[dtype], tables="disk")
    copy_tables(model, work)
    journal = trainable_on_disk(model, work)
    train(model, steps, table_optimizer=rule)
    files = [info for path in work.glob("*.safetensors") for info in read_header(path).values()]
    in_tables = [info for info in files if info.shape[1] > 1 and info.path.stem.count(".") == 0]
    state = [info for info in files if info not in in_tables]
    assert sum(info.stop - info.start for info in in_tables) == tables
    assert {info.dtype for info in in_tables} == {{"float32": "F32", "bfloat16": "BF16"}[dtype]}
    assert {info.dtype for info in state} == {"F32"}
    columns = sum(info.stop - info.start for info in state)
    assert columns == stated["table optimizer state", "disk"]
    shadows = [path.stat() for path in journal.place.glob("*.shadow")]
    assert len(shadows) == len(files)
    taken = sum(shadow.st_blocks * 512 for shadow in shadows)
    journal.prepare()
    listed = [path.read_bytes().partition(b"\n")[2] for path in journal.place.glob("*.dirty")]
    taken += sum(map(len, listed))
    most = stated["table shadow", "disk"]
    assert most / 3 < taken <= most
    in_memory = [entry.dirty for entry in journal._entries.values()]
    assert sum(it._bits.nbytes for it in in_memory) == stated["table bitmaps", "cpu"]
    index = sum(part.nbytes for it in in_memory for run in it._runs for part in run)
    most = stated["table shadow index", "cpu"]
    assert most / 3 < index <= most
    journal.close()

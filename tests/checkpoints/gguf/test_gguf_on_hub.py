"""GGUF on the hub, stood in for by a server on the loopback: only bytes that are needed travel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engram import look_up, report, verify
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.checkpoints.read.find_gguf import find_gguf
from engram.errors import CorruptFileError, InputError, MissingFileError, UsageError
from engram.storage import hub as storage_hub
from engram.storage import hub_file
from engram.storage.gguf_headers import read_gguf, read_gguf_header
from engram.storage.gguf_on_hub import HubGguf
from engram.storage.hub_file import HubFile
from support import sparse_folder
from support.cli import run
from support.gguf_files import Tensor, v41_tensors, v41_values, write, write_parts
from support.gguf_memories import write_filled, write_memory
from support.hub import COMMIT, ModelHub, serving
from support.paths import BPE

TEXT = "By the way, I am a fan of the Milky Way. By the way."
FIRST_WINDOW = 2**17


class RoomyHub(ModelHub):
    """A hub from which headers with large tokenizers may be read."""

    limit = 2**23


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with an empty repository; ``hub.folder`` is its folder."""
    with serving(RoomyHub, tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server.folder = tmp_path / "some" / "model"
        server.folder.mkdir(parents=True)
        yield server


def sent_bytes(server):
    return sum(length for _, length in server.sent)


def test_a_report_takes_the_header_alone(hub):
    path = write_memory(hub.folder / "big.gguf", "gguf_ds4")
    assert path.stat().st_size > 190e9
    found, here = report("some/model").to_dict(), report(path).to_dict()
    assert (found.pop("target"), here.pop("target")) == ("some/model", str(path))
    assert found == here
    assert hub.sent == [("big.gguf", FIRST_WINDOW)]
    hub.sent.clear()
    assert run("report", "some/model/big.gguf", "--json").json()["gguf"] == here["gguf"]
    assert hub.sent == [("big.gguf", FIRST_WINDOW)]


def test_a_large_header_takes_few_requests(hub):
    path = write(hub.folder / "big.gguf", v41_values(), v41_tensors())
    file = HubFile.at("some/model", "big.gguf", None)
    found, here = read_gguf_header(file), read_gguf(path)
    assert (file.size, file.revision) == (path.stat().st_size, COMMIT)
    assert [(it.name, it.start, it.type_id) for it in found.tensors.values()] == [
        (it.name, it.start, it.type_id) for it in here.tensors.values()
    ]
    assert len(hub.sent) < 10
    assert sent_bytes(hub) < here.header_bytes + 2**22
    before = len(hub.sent)
    texts = found.values["tokenizer.ggml.tokens"].texts()
    assert texts == here.values["tokenizer.ggml.tokens"].texts()
    assert len(hub.sent) <= before + 1
    again = len(hub.sent)
    numbers = [found.values["deepseek41.engram.token_map"].numbers() for _ in range(3)]
    assert all(np.array_equal(it, numbers[0]) for it in numbers)
    assert numbers[0][-1] == 129279 % 99092
    assert len(hub.sent) <= again + 1, "what was read is kept"


def test_what_is_kept_is_bounded(hub, monkeypatch):
    content = np.random.default_rng(3).integers(0, 256, 9000, dtype=np.uint8).tobytes()
    (hub.folder / "file").write_bytes(content)
    monkeypatch.setattr(hub_file, "_MOST_KEPT_BYTES", 3000)
    file = HubFile.at("some/model", "file", None)
    for offset, count in ((0, 100), (50, 100), (4000, 3000), (8000, 900), (8990, 50), (100, 20)):
        assert file.read(offset, count) == content[offset : offset + count]
        assert sum(len(it.content) for it in file._kept) <= 7000
    assert file.read(9000, 5) == b""
    assert file.read_each([(8999, 4), (20000, 4), (3, 0)]) == [content[8999:], b"", b""]
    hub.sent.clear()
    file.read(100, 20)
    assert hub.sent == []


def test_verify_takes_constants_and_sampled_rows(hub):
    path = write_memory(hub.folder / "big.gguf", "gguf_ds4", changed={"pad_id": 3})
    found, here = verify("some/model"), verify(path)
    assert [replace(it) for it in found] == [replace(it) for it in here]
    assert not found.ok
    rows = [length for _, length in hub.sent if length == 264]
    assert len(rows) == 2 * 6
    assert sent_bytes(hub) == FIRST_WINDOW + sum(rows)


@pytest.mark.parametrize("name", ["gguf_ds4", "gguf_jig", "gguf_qwen4exp"])
def test_a_look_up_takes_its_rows(hub, name):
    path = hub.folder / "model.gguf"
    write_filled(path, name)
    here = look_up(path, TEXT, tokenizer=BPE)
    found = look_up("some/model", TEXT, tokenizer=BPE)
    assert {**found.to_dict(), "target": str(path)} == here.to_dict()
    memory = open_gguf(path)
    read = {layer.layer_id: layer.rows_read for layer in here.layers}
    rows = sum(
        read[table.layer_id] * sum(tensor.row_bytes for tensor in table.decoded)
        for table in memory.tables
    )
    header = min(FIRST_WINDOW, path.stat().st_size)
    constants = sum(
        memory.tensor(fact).data_bytes
        for fact in memory.dialect.facts
        if memory.tensor(fact) is not None
    )
    assert sent_bytes(hub) <= header + constants + rows
    assert sent_bytes(hub) >= header + rows
    line = ("lookup", "some/model/model.gguf", TEXT, "-t", BPE, "--revision", "v1", "--json")
    assert run(*line).json()["layers"] == here.to_dict()["layers"]


def test_a_model_in_parts(hub):
    whole = write_memory(hub.root / "whole.gguf", "gguf_llama")
    header = read_gguf(whole)
    values = {key: it for key, it in values_of(whole).items() if key != "general.alignment"}
    tensors = [*((it.name, Tensor(it.dims, it.type_id)) for it in header.tensors.values())]
    parts = [dict(tensors[:3]), dict(tensors[3:5]), dict(tensors[5:])]
    folder = hub.folder / "Q8"
    folder.mkdir()
    paths = write_parts(folder, values, parts)
    found = open_gguf(find_gguf(f"some/model/Q8/{paths[1].name}"))
    assert found.files.tensors.keys() == header.tensors.keys()
    assert [part.path.name for part in found.files.parts] == [path.name for path in paths]
    assert found.files.problems == ()
    assert len(hub.sent) == 3
    paths[2].unlink()
    with pytest.raises(MissingFileError, match=f"some/model has no Q8/{paths[2].name} on the hub"):
        verify(f"some/model/Q8/{paths[0].name}")


class MovingHub(RoomyHub):
    """A hub whose branch moves on after its first answer: files are at the old commit alone."""

    def answer(self, with_body):
        is_branch = "/resolve/main/" in self.path
        if is_branch and self.server.has_moved:
            return self.fail(404, {"X-Error-Code": "EntryNotFound"})
        self.server.has_moved |= is_branch
        return super().answer(with_body)


def test_all_parts_are_of_one_commit(tmp_path, monkeypatch):
    folder = tmp_path / "some" / "model"
    folder.mkdir(parents=True)
    whole = write_memory(tmp_path / "whole.gguf", "gguf_llama")
    values = {key: it for key, it in values_of(whole).items() if key != "general.alignment"}
    header = read_gguf(whole)
    tensors = [*((it.name, Tensor(it.dims, it.type_id)) for it in header.tensors.values())]
    paths = write_parts(folder, values, [dict(tensors[:3]), dict(tensors[3:5]), dict(tensors[5:])])
    with serving(MovingHub, tmp_path) as server:
        server.has_moved = False
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        found = open_gguf(find_gguf(f"some/model/{paths[1].name}"))
    assert server.has_moved
    assert found.files.tensors.keys() == header.tensors.keys()


def values_of(path):
    """Metadata of a file as the writer of the tests takes it."""
    from support.gguf_files import Array

    return {
        key: Array(it.kind, it.texts() if it.kind == "string" else it.numbers().tolist())
        if it.is_array
        else (it.kind, it.scalar())
        for key, it in read_gguf(path).values.items()
    }


def test_one_of_several_models_has_to_be_named(hub):
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (hub.folder / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match="some/model has 2 models") as error:
        report("some/model")
    assert "some/model/a.gguf, some/model/b-00001-of-00002.gguf" in error.value.hint
    assert find_gguf("some/model/a.gguf") == HubGguf("some/model", "a.gguf", None)
    (hub.folder / "model.safetensors").write_bytes(b"")
    assert find_gguf("some/model") is None, "weights of transformers come first"


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(MissingFileError, match=r"some/model has no none\.gguf on the hub"):
        report("some/model/none.gguf")
    with pytest.raises(MissingFileError, match="some/none is not a folder here, and not on"):
        verify("some/none/none.gguf")
    with pytest.raises(MissingFileError, match="has no revision 'v9'"):
        look_up("some/model/a.gguf", TEXT, revision="v9")
    assert find_gguf("some/none") is None
    assert find_gguf("./some/model/a.gguf") is None
    assert find_gguf("some/model/readme.md") is None
    (hub.folder / "empty.gguf").write_bytes(b"")
    assert [(it.name, it.ok) for it in verify("some/model/empty.gguf")] == [("header", False)]
    with pytest.raises(CorruptFileError, match=r"some/model/empty\.gguf is damaged"):
        report("some/model/empty.gguf")


def test_a_hub_that_sends_other_bytes_or_goes_away(hub, monkeypatch):
    monkeypatch.setattr(storage_hub, "RETRY_PAUSE_SECONDS", 0.01)
    write_filled(hub.folder / "model.gguf", "gguf_ds4")
    memory = open_gguf(find_gguf("some/model"))
    hub.ignores_ranges = True
    with pytest.raises(MissingFileError, match="whole files only"):
        memory.tables[0].values.source.read_each([(10**5, 10)])
    with pytest.raises(MissingFileError, match="whole files only"):
        report("some/model")
    hub.server_close()
    hub.shutdown()
    with pytest.raises(MissingFileError, match="some/model could not be read from the hub"):
        memory.tables[0].values.source.read(2**18, 10)


def test_a_source_on_the_hub(hub):
    path = hub.root / "model.gguf"
    write_filled(path, "gguf_ds4")
    write_filled(hub.folder / "model.gguf", "gguf_ds4")
    here, there = verify(path, source="some/model"), verify("some/model", source=path)
    for checks in (here, there):
        assert [it.ok for it in checks if it.name.startswith("source")] == [True, True]
    sparse_folder.v41(hub.root / "deepseek-ai" / "v41")
    with pytest.raises(UsageError, match="deepseek-ai/v41 is on the hub, and rows of it"):
        verify(path, source="deepseek-ai/v41")


def test_a_revision_is_of_the_hub_alone(hub):
    path = write_memory(hub.folder / "model.gguf", "gguf_ds4")
    assert find_gguf("some/model", "v1") == HubGguf("some/model", "model.gguf", COMMIT)
    for judge in (report, verify):
        with pytest.raises(UsageError, match="leave --revision"):
            judge(path, revision="v1")
        assert judge("some/model", revision="v1")
    with pytest.raises(UsageError, match="leave --revision out"):
        look_up(path, TEXT, revision="v1")
    with pytest.raises(UsageError, match="leave -c"):
        look_up("some/model", TEXT, config="gpt2")

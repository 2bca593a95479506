"""Writing that begins before the checks: the same bytes, and nothing left where they refuse."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from engram.checkpoints.attach import attach
from engram.checkpoints.attach.begun_folder import BegunFolder
from engram.errors import DependencyError, EngramError, InputError
from engram.hf import compat
from engram.storage.safetensors_headers import read_header
from support import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def ends(monkeypatch) -> list[str]:
    """How folders that were begun end: finished, or with an error."""
    found: list[str] = []
    finished, leave = BegunFolder.finished, BegunFolder.__exit__

    def finish(self, *args):
        found.append("finished")
        return finished(self, *args)

    def end(self, *raised):
        found.append("left")
        leave(self, *raised)

    monkeypatch.setattr(BegunFolder, "finished", finish)
    monkeypatch.setattr(BegunFolder, "__exit__", end)
    return found


def watched(monkeypatch) -> list[object]:
    begun: list[object] = []
    begin = attach.begin

    def watch(*args: object, **kwargs: object) -> object:
        begun.append(begin(*args, **kwargs))
        return begun[-1]

    monkeypatch.setattr(attach, "begin", watch)
    return begun


@pytest.mark.parametrize("init", ["identity", "zero-table", "paper"])
def test_the_bytes_are_those_of_a_folder_that_is_written_afterwards(
    llama, tmp_path, monkeypatch, ends, init
):
    steps = []
    made = attach.attach(
        llama,
        tiny.memory_config(),
        tmp_path / "begun",
        init=init,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert ends == ["finished", "left"]
    assert steps[-1] == (made.plan.written_bytes, made.plan.written_bytes)
    monkeypatch.setattr(attach, "begin", lambda *args, **kwargs: None)
    attach.attach(llama, tiny.memory_config(), tmp_path / "after", init=init)
    assert content(tmp_path / "begun") == content(tmp_path / "after")


def test_a_folder_that_was_begun_for_other_names_is_written_anew(
    llama, tmp_path, monkeypatch, ends
):
    attach.attach(llama, tiny.memory_config(), tmp_path / "right")
    ends.clear()
    monkeypatch.setattr(
        "engram.checkpoints.attach.begun_folder._likely_layers_path", lambda base: "other.layers"
    )
    attach.attach(llama, tiny.memory_config(), tmp_path / "anew")
    assert ends == ["left"]
    assert content(tmp_path / "right") == content(tmp_path / "anew")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anew", "right"]


def test_what_the_checks_refuse_leaves_nothing(llama, tmp_path, monkeypatch):
    begun = watched(monkeypatch)

    def refuse() -> None:
        raise DependencyError("refused", "")

    monkeypatch.setattr(compat, "check", refuse)
    with pytest.raises(EngramError, match="refused"):
        attach.attach(llama, tiny.memory_config(), tmp_path / "out")
    assert begun[0] is not None
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_it_is_finished_leaves_nothing(llama, tmp_path):
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach.attach(llama, tiny.memory_config(), tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", [True, False])
def test_a_base_whose_files_have_the_names_of_new_ones_is_refused(
    llama, tmp_path, link, monkeypatch
):
    attach.attach(llama, tiny.memory_config(), tmp_path / "made")
    (name,) = (path.name for path in (tmp_path / "made").glob("engram-0*.safetensors"))
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    weights = base / "model.safetensors"
    tensors = list(read_header(weights))
    weights.rename(base / name)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    before = content(base)
    with pytest.raises(InputError, match=f"has the name of a new file: {name}"):
        attach.attach(base, tiny.memory_config(), tmp_path / "out", link=link)
    assert content(base) == before
    assert not (tmp_path / "out").exists()


def test_an_interrupt_while_it_is_checked_does_not_wait_for_the_writing(
    llama, tmp_path, monkeypatch
):
    begun, waited = watched(monkeypatch), threading.Event()
    write = BegunFolder._step

    def slow(self, *step):
        waited.wait(60)
        write(self, *step)

    def interrupt() -> None:
        stop = begun[0]._stop
        threading.Thread(target=lambda: stop.wait(60) and waited.set()).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(BegunFolder, "_step", slow)
    monkeypatch.setattr(compat, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        attach.attach(llama, tiny.memory_config(), tmp_path / "out")
    assert waited.is_set()
    assert list(tmp_path.iterdir()) == []

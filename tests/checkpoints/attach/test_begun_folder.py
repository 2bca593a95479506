"""Writing that begins before the checks: the same bytes, and nothing left where they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from engram.checkpoints.attach import attach
from engram.errors import DependencyError, EngramError
from engram.hf import compat
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
    llama, tmp_path, monkeypatch, init
):
    begun, steps = watched(monkeypatch), []
    made = attach.attach(
        llama,
        tiny.memory_config(),
        tmp_path / "begun",
        init=init,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert begun[0] is not None
    assert steps[-1] == (made.plan.written_bytes, made.plan.written_bytes)
    monkeypatch.setattr(attach, "begin", lambda *args, **kwargs: None)
    attach.attach(llama, tiny.memory_config(), tmp_path / "after", init=init)
    assert content(tmp_path / "begun") == content(tmp_path / "after")


def test_a_folder_that_was_begun_for_other_names_is_written_anew(llama, tmp_path, monkeypatch):
    attach.attach(llama, tiny.memory_config(), tmp_path / "right")
    begun = watched(monkeypatch)
    monkeypatch.setattr(
        "engram.checkpoints.attach.begun_folder._likely_layers_path", lambda base: "other.layers"
    )
    attach.attach(llama, tiny.memory_config(), tmp_path / "anew")
    assert begun[0] is not None
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

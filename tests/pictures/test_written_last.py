"""The answer of a command is printed before its picture and its page are written."""

from __future__ import annotations

import errno
import os

import pytest

from support.cli import run

ALLOCATE = ("allocate", "--total", "9.9B", "--active", "993M")


@pytest.mark.parametrize(
    ("words", "flag", "name", "key"),
    [
        (("size", "--model", "gpt2", "--layers", "1"), "--plot", "a.png", "curve"),
        (ALLOCATE, "--plot", "a.png", "curves"),
        (("allocate", "--model", "qwen3-30b-a3b"), "--plot", "a.png", "curves"),
        (("report", "engram-27b"), "--plot", "a.png", "homes_by_part"),
        (("report", "engram-27b"), "--html", "a.html", "rows"),
    ],
)
def test_a_full_disk_does_not_lose_the_answer(words, flag, name, key, monkeypatch, tmp_path):
    def fail(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    module = "style" if flag == "--plot" else "page"
    monkeypatch.setattr(f"engram.pictures.{module}.atomic_write", fail)
    done = run(*words, flag, tmp_path / name, "--json")
    assert done.json(code=5)[key]
    assert name in done.stderr
    assert [*tmp_path.iterdir()] == []

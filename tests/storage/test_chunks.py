"""Chunks: their order, memory that is used again, and writes that begin early."""

from __future__ import annotations

import os
from functools import partial

import pytest

from engram.storage import chunks, write_back
from engram.storage.chunks import Filled, made_chunks
from engram.storage.write_back import WriteBack


def fill(value, buffer):
    buffer[:] = value


def test_chunks_of_any_size_keep_their_order():
    sizes = [5, 1, 9, 9, 3, 12, 2, 7, 7]
    makers = [Filled(size, partial(fill, value)) for value, size in enumerate(sizes)]
    makers.insert(3, lambda: b"other")
    found = [bytes(chunk) for chunk in made_chunks(makers)]
    expected = [bytes([value]) * size for value, size in enumerate(sizes)]
    assert found == [*expected[:3], b"other", *expected[3:]]


def test_memory_is_bounded_whatever_the_sizes(monkeypatch):
    made = []

    def empty(size, dtype):
        made.append(real(size, dtype))
        return made[-1]

    real = chunks.np.empty
    monkeypatch.setattr(chunks.np, "empty", empty)
    makers = [Filled(1000 - size, partial(fill, 1)) for size in range(100)]
    assert sum(len(chunk) for chunk in made_chunks(makers)) == sum(1000 - n for n in range(100))
    assert len(made) <= 4


@pytest.mark.parametrize("error", [None, OSError("no such request")])
def test_writing_begins_early_where_the_system_can(error, monkeypatch, tmp_path):
    asked = []

    def advise(descriptor, start, size, advice):
        asked.append((start, size))
        if error is not None:
            raise error

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(write_back, "_STRETCH_BYTES", 100)
    with (tmp_path / "file").open("wb") as file:
        started = WriteBack(file.fileno(), at=10)
        for _ in range(5):
            started.wrote(60)
    assert asked == [(10, 120), (130, 120)]

"""Copies of stretches: every byte, with holes where the source has them."""

import os

import pytest

from engram.errors import CorruptFileError
from engram.storage import copied_bytes
from engram.storage.copied_bytes import copy_stretch


@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize(("at", "count"), [(0, 2**20), (5, 300_000), (2**20 - 7, 7), (70_000, 1)])
def test_stretches_with_holes(at, count, by_kernel, tmp_path, monkeypatch):
    if not by_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(2**20)
        for place in (0, 65_536, 2**19, 2**20 - 4096):
            file.seek(place)
            file.write(os.urandom(4096))
    told = []
    with target.open("wb") as file:
        copy_stretch(source, at, file.fileno(), 11, count, told.append)
        file.truncate(11 + count)
    assert target.read_bytes() == bytes(11) + source.read_bytes()[at : at + count]
    assert sum(told) == count


def test_long_stretches_come_in_pieces_and_cut_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(copied_bytes, "COPIED_BYTES", 1000)
    source, told = tmp_path / "source", []
    source.write_bytes(os.urandom(4500))
    with (tmp_path / "target").open("wb") as file:
        copy_stretch(source, 0, file.fileno(), 0, 4500, told.append)
        assert told == [1000] * 4 + [500]
        with pytest.raises(CorruptFileError, match="ends at byte 4,500"):
            copy_stretch(source, 4000, file.fileno(), 0, 501)
        source.write_bytes(b"")
        os.truncate(source, 10**12)  # a hole, and nothing but that
        copy_stretch(source, 0, file.fileno(), 0, 10**6)

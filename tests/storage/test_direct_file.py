"""Direct writes: every byte at its place, with and without the file system's help."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from engram.storage import direct_file
from engram.storage.direct_file import DirectFile


@pytest.fixture(params=[True, False])
def is_direct(request, monkeypatch):
    """Whether the system has direct writes."""
    if not request.param:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    monkeypatch.setattr(direct_file, "_BUFFER_BYTES", 2**14)
    return request.param


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 5000])
def test_a_file_holds_what_was_written(tmp_path, is_direct, at):
    random = np.random.default_rng(at)
    path, expected = tmp_path / "file", bytearray(b"x" * at)
    path.write_bytes(expected)
    with DirectFile(path, at) as file:
        for size in (3, 4096, 16384, 100_000, 1, 0, 8192):
            chunk = random.bytes(size)
            file.write(chunk)
            expected += chunk
            assert file.place == len(expected)
        file.flush()
        assert path.read_bytes() == expected
        file.skip(10_000)
        file.write(b"after the hole")
        expected += bytes(10_000) + b"after the hole"
        file.skip(7)
    assert path.read_bytes() == expected + bytes(7)


def test_an_error_of_the_block_flushes_nothing_more(tmp_path):
    def fail(path):
        with DirectFile(path, 0) as file:
            file.write(b"held")
            raise ValueError("stop")

    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="stop"):
        fail(path)
    assert path.read_bytes() == b""


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the system has no direct writes")
def test_a_file_system_that_refuses_a_direct_write_gets_the_rest_as_usual(tmp_path, monkeypatch):
    monkeypatch.setattr(direct_file, "_BUFFER_BYTES", 2**14)
    pwrite = os.pwrite

    def refuse(descriptor, data, at):
        if file._direct == descriptor:
            raise OSError(errno.EINVAL, "refused")
        return pwrite(descriptor, data, at)

    path, random = tmp_path / "file", np.random.default_rng(1)
    path.write_bytes(b"abc")
    expected = b"abc"
    with DirectFile(path, 3) as file:
        if file._direct is None:
            pytest.skip("this file system has no direct writes")
        monkeypatch.setattr(os, "pwrite", refuse)
        for size in (100_000, 50_000, 7, 40_000):
            chunk = random.bytes(size)
            file.write(chunk)
            expected += chunk
    assert path.read_bytes() == expected

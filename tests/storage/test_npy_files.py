"""`read_npy`: what it refuses, and an interrupt while it opens a file."""

from __future__ import annotations

import numpy as np
import pytest

from engram.errors import CorruptFileError
from engram.storage.npy_files import read_npy


def test_whole_numbers_are_mapped(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    found = read_npy(tmp_path / "ids.npy", 2, hint="Next.")
    assert isinstance(found, np.memmap)
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"holds float64 \[3\], not whole numbers in 1 axis"),
        (np.zeros((2, 2), np.int32), r"holds int32 \[2, 2\], not whole numbers in 1 axis"),
        (np.array([{}], dtype=object), "cannot be read as an .npy file"),
    ],
    ids=["fractions", "axes", "objects"],
)
def test_something_else_is_refused(tmp_path, array, message):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(CorruptFileError, match=message):
        read_npy(tmp_path / "ids.npy", 1, hint="Next.")


def test_a_header_that_is_guessed_at_is_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(3, dtype=np.int64))
    written = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(written.replace(b"(3,), } ", b"(3L,), }"))  # of Python 2
    with pytest.raises(CorruptFileError, match="additional header parsing"):
        read_npy(tmp_path / "ids.npy", 1, hint="Next.")


def test_an_interrupt_of_the_opening_is_nothing_but_an_interrupt(tmp_path, monkeypatch):
    np.save(tmp_path / "ids.npy", np.arange(3))

    def interrupted(path, mode):
        path.open(f"{mode}b")  # the interrupt comes before it is closed
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "open_memmap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_npy(tmp_path / "ids.npy", 1, hint="Next.")

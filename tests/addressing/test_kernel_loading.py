"""When and how the compiled kernel is loaded, and what happens where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from engram import EngramConfig
from engram.addressing import hashing
from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.reference import hash_ids
from engram.errors import EngramWarning

SCRIPT = """
import contextlib
import numpy as np
from engram import EngramConfig
from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.reference import hash_ids

config = EngramConfig(
    hidden_size=8, engram_vocab_size=50, engram_table_size=[150, 170], max_ngram_size=3,
    n_embed_per_ngram=6, n_head_per_ngram=3, layer_ids=[1], pad_id=0,
)
addresses = Addresses.from_config(config, np.arange(50, dtype=np.int32), 0)
hasher = Hasher(addresses, form="numba")
ids = np.arange(50).reshape(5, 10)
with contextlib.ExitStack() as stack:
    events = []
    with contextlib.suppress(ImportError):
        from numba.core.event import install_recorder

        events = stack.enter_context(install_recorder("numba:compile")).buffer
    assert (hasher.hash(ids)[0] == hash_ids(addresses, ids)[0]).all()
    assert hasher.hash(ids, starts=ids % 7 == 0)[0].shape == (5, 10, 1, 6)
started = [event.data["dispatcher"] for _, event in events if event.is_start]
compiled = [dispatcher.py_func.__name__ for dispatcher in started]
print(hasher._kernel is not None, compiled.count("hash_range"))
"""


@pytest.fixture
def addresses(monkeypatch):
    monkeypatch.setattr(hashing, "_KERNELS", {})
    config = EngramConfig(
        hidden_size=8,
        engram_vocab_size=50,
        engram_table_size=[100, 120],
        max_ngram_size=3,
        n_embed_per_ngram=4,
        n_head_per_ngram=2,
        layer_ids=[1],
        pad_id=0,
    )
    return Addresses.from_config(config, np.arange(50, dtype=np.int32), 0)


def run(*, blocked="", **env):
    blocker = f"import sys; sys.modules[{blocked!r}] = None\n" if blocked else ""
    done = subprocess.run(
        [sys.executable, "-c", blocker + SCRIPT],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_second_process_reads_the_machine_code(tmp_path):
    assert run(NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "1"]
    files = sorted(tmp_path.rglob("*.nb?"))
    assert len(files) == 2  # one index, one kernel
    assert run(NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "0"]
    assert sorted(tmp_path.rglob("*.nb?")) == files


def test_damaged_machine_code_is_compiled_anew(tmp_path):
    run(NUMBA_CACHE_DIR=str(tmp_path))
    for file in tmp_path.rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:100])
    assert run(NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "1"]


def test_no_folder_for_machine_code(addresses, monkeypatch):
    def without_folder(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.dispatcher.FunctionCache", without_folder)
    ids = np.arange(12).reshape(2, 6)
    hasher = Hasher(addresses, form="numba")
    np.testing.assert_array_equal(hasher.hash(ids)[0], hash_ids(addresses, ids)[0])
    assert hasher._kernel is not None


def test_numba_that_does_not_work_is_told_once(addresses, monkeypatch):
    def fail(_kind):
        raise OSError("no such library")

    monkeypatch.setattr(hashing, "_KERNELS", {})
    monkeypatch.setattr(hashing, "_compile", fail)
    ids = np.arange(12).reshape(2, 6)
    with pytest.warns(EngramWarning, match="numpy.*OSError: no such library") as told:
        found = [Hasher(addresses, form="numba").hash(ids)[0] for _ in range(2)]
    assert len(told) == 1
    np.testing.assert_array_equal(found, [hash_ids(addresses, ids)[0]] * 2)


@pytest.mark.parametrize("how", [{"blocked": "numba"}, {"NUMBA_DISABLE_JIT": "1"}])
def test_without_numba(how):
    assert run(**how) == ["False", "0"]


def test_auto_turns_to_numba_when_it_pays(addresses, monkeypatch):
    loaded = []
    monkeypatch.setattr(hashing, "_compile", lambda kind: loaded.append(kind))
    hasher = Hasher(addresses)
    ids = np.zeros((1, 1), dtype=np.int64)
    hasher.hash(ids)
    assert not loaded
    for _ in range(round(hashing._SECONDS_TO_LOAD / hashing._SECONDS_PER_CALL)):
        hasher.hash(ids)
    assert loaded == [(1, 2, 2)]
    # A kernel that is there already is used at once, and by every Hasher of its kind.
    monkeypatch.setattr(hashing, "_KERNELS", {(1, 2, 2): lambda *_: -1})
    another = Hasher(addresses)
    another.hash(ids)
    assert another._kernel is not None

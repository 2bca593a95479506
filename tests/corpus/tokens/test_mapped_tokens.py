"""Shards of mapped tokens travel to other processes as places in files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from engram.corpus.tokens.mapped_tokens import TokenShard
from engram.errors import CorruptFileError

TOKENS = np.random.default_rng(0).integers(0, 2**16, 5000, np.uint16)
BOUNDS = np.array([0, 1200, 5000], np.int64)


@pytest.fixture
def mapped(tmp_path):
    for name, array in (("tokens", TOKENS), ("bounds", BOUNDS)):
        np.save(tmp_path / f"{name}.npy", array)
    return [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("tokens", "bounds")]


@pytest.mark.parametrize("part", [slice(None), slice(700, 3100), slice(0, 0), slice(None, None, 2)])
def test_a_shard_is_pickled_without_its_arrays(mapped, part):
    tokens, bounds = mapped
    shard = TokenShard("name", tokens[part], bounds)
    data = pickle.dumps(shard)
    there = pickle.loads(data)
    assert there.name == "name"
    assert there.tokens.dtype == TOKENS.dtype
    assert np.array_equal(there.tokens, TOKENS[part])
    assert np.array_equal(there.bounds, BOUNDS)
    if part.step is None:
        assert len(data) < 2000


def test_arrays_in_memory_are_pickled_themselves(mapped):
    there = pickle.loads(pickle.dumps(TokenShard("name", TOKENS[10:90], mapped[1] + 1)))
    assert np.array_equal(there.tokens, TOKENS[10:90])
    assert np.array_equal(there.bounds, BOUNDS + 1)


@pytest.mark.parametrize("change", ["replaced", "shorter", "removed"])
def test_a_file_that_has_changed_since_is_refused(mapped, tmp_path, change):
    data = pickle.dumps(TokenShard("name", *mapped))
    path = tmp_path / "tokens.npy"
    if change == "removed":
        path.unlink()
    else:
        np.save(tmp_path / "other.npy", TOKENS[::-1] if change == "replaced" else TOKENS[:9])
        (tmp_path / "other.npy").replace(path)
    with pytest.raises(CorruptFileError, match=r"tokens\.npy has changed"):
        pickle.loads(data)

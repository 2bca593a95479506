"""First values follow from key and place: any chunks give them, and they look normal."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from engram.checkpoints.attach.initial_values import table_chunks
from engram.checkpoints.attach.normal_values import LEVELS, _quantiles, fill_normal
from engram.storage.chunks import Hole, made_chunks
from engram.storage.unfinished import Place
from engram.tensor_names import TABLE


def made(first, count, dtype="float32", seed=2**64 - 5):
    out = np.empty(count * (2 if dtype in ("bfloat16", "float16") else 4), np.uint8)
    fill_normal(seed, first, out, dtype)
    return out


def plain(first, count, seed=2**64 - 5):
    """The same in numpy: splitmix64 of a counter, 16 bits for a value."""
    with np.errstate(over="ignore"):
        words = np.arange(first // 4 + 1, (first + count) // 4 + 2, dtype=np.uint64)
        bits = np.uint64(seed) + words * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    levels = bits.view("<u2")[:count] & (LEVELS - 1)
    return _quantiles("float32")[levels]


@pytest.mark.parametrize("count", [1, 3, 4, 4099])
def test_they_are_those_of_the_numpy_form(count):
    assert np.array_equal(made(400, count).view(np.float32), plain(400, count))


def test_moments_are_a_normal_distributions():
    values = made(0, 2**22).view(np.float32).astype(np.float64)
    assert abs(values.mean()) < 0.002
    assert values.std() == pytest.approx(1, abs=0.001)
    assert (values**4).mean() / values.var() ** 2 == pytest.approx(3, abs=0.02)
    assert abs((values[:-1] * values[1:]).mean()) < 0.002


def test_quantiles_do_not_depend_on_how_a_logarithm_is_rounded():
    from statistics import NormalDist

    inverse = NormalDist().inv_cdf
    exact = np.array([inverse((index + 0.5) / LEVELS) for index in range(LEVELS)]) * 2**20
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-6
    assert np.abs(_quantiles("float64") * 2**20 - exact).max() <= 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_of_any_size_give_the_same_table(monkeypatch, dtype):
    tables = []
    for values in (2**20, 900):
        monkeypatch.setattr("engram.checkpoints.attach.initial_values.CHUNK_VALUES", values)
        chunks = table_chunks(1001, 37, dtype, std=1.0, key="0/1")[TABLE]
        tables.append(b"".join(bytes(chunk) for chunk in made_chunks(chunks)))
    assert tables[0] == tables[1]


def test_a_table_of_zeros_is_a_hole_with_the_digest_of_its_bytes(tmp_path):
    chunks = [*table_chunks(2**16, 64, "float32", std=0.0, key="k")[TABLE]]
    assert all(isinstance(make(), Hole) for make in chunks)
    digest = hashlib.sha256()
    Place(tmp_path).write("table", b"head", chunks, lambda size: None, digest.update)
    status = (tmp_path / "table").stat()
    assert status.st_size == 4 + 2**24
    assert status.st_blocks * 512 < 2**20
    content = (tmp_path / "table").read_bytes()
    assert content == b"head" + bytes(2**24)
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()

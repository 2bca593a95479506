"""Every form of the hash equals the readable reference, whatever the shape of the memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher

from engram import EngramConfig
from engram.addressing import hashing
from engram.addressing.addresses import Addresses, map_digest
from engram.addressing.hashing import Hasher
from engram.addressing.reference import hash_ids
from engram.errors import InputError, LayoutError, MismatchError, UsageError
from engram.hf.torch_hash import TorchHasher

V = 61
MAP = (np.arange(V, dtype=np.int32) % 40).astype(np.int32)
LAYOUTS = ["demo", "deepseek_v41", "qwen_ple", "demo with ends", "deepseek_v41 with ends"]
SHAPES = {
    "one head": {"n_head_per_ngram": 1, "max_ngram_size": 2},
    "layers out of order": {"n_head_per_ngram": 2, "layer_ids": [7, 0, 3]},
    "5-grams": {"n_head_per_ngram": 3, "max_ngram_size": 5},
    "eight heads": {"n_head_per_ngram": 8, "max_ngram_size": 3},
    "eleven heads": {"n_head_per_ngram": 11, "max_ngram_size": 4, "layer_ids": [2]},
    "huge primes": {"n_head_per_ngram": 2, "engram_table_size": [2**41, 2**59]},
    "tiny primes": {"n_head_per_ngram": 3, "engram_table_size": [6, 6]},
}


@pytest.fixture(autouse=True)
def _only_cached_kernels(monkeypatch):
    """An error in a call of a kernel must not hide behind the kernel that is compiled anew."""
    compile_any = Dispatcher.compile

    def compile_cached(self, signature):
        is_cached = self.stats.cache_path is not None
        assert is_cached or self.py_func.__name__ != "hash_range", "the cached kernel failed"
        return compile_any(self, signature)

    monkeypatch.setattr(Dispatcher, "compile", compile_cached)


def addresses_of(layout, **keys):
    if layout.endswith(" with ends"):
        # Token 45 has the compressed id of token 5, and ends nothing.
        layout = layout.removesuffix(" with ends")
        keys |= {"ends_after_eos": True, "eos_id": 5}
    order = keys.setdefault("max_ngram_size", 3)
    heads = keys["n_head_per_ngram"]
    if layout == "demo":
        keys.setdefault("engram_table_size", [heads * (50 + 900 * n) for n in range(order, 1, -1)])
        keys["pad_id"] = 2
    else:
        sizes = keys.get("engram_table_size", [heads * 90])
        keys["engram_table_size"] = [max(sizes)] * (order - 1)
        keys["pad_id" if layout == "deepseek_v41" else "eos_id"] = 5
    keys.setdefault("layer_ids", [1, 4])
    config = EngramConfig(
        layout=layout,
        hidden_size=8,
        engram_vocab_size=V,
        n_embed_per_ngram=heads,
        **keys,
    )
    return Addresses.from_config(config, MAP, config.pad_id)


def torch_hash(addresses, ids, **tensors):
    tensors = {key: torch.from_numpy(value) for key, value in tensors.items() if value is not None}
    if addresses.token_map is not None:
        tensors["token_map"] = torch.from_numpy(addresses.token_map)
    rows, history = TorchHasher(addresses).hash(torch.from_numpy(ids), **tensors)
    return rows.numpy(), history.numpy()


def forms(addresses, monkeypatch):
    monkeypatch.setattr(hashing, "_IDS_PER_THREAD", 1)
    return {
        "numpy": Hasher(addresses, form="numpy").hash,
        "numba": Hasher(addresses, form="numba").hash,
        "three threads": Hasher(addresses, form="numba", threads=3).hash,
        "torch": lambda ids, **keys: torch_hash(addresses, ids, **keys),
    }


def random_call(rng, addresses):
    """Ids with negative ones and, if the layout has it, many ends of text; masks; a history."""
    shape = (int(rng.integers(1, 5)), int(rng.integers(1, 23)))
    ids = rng.integers(0, V, shape)
    ids[rng.random(shape) < 0.2] = 5
    ids[rng.random(shape) < 0.1] = 45
    ids[rng.random(shape) < 0.05] = -int(rng.integers(1, 2**60))
    ids[rng.random(shape) < 0.1] = V - 1
    keys = {
        "keep": rng.random(shape) < 0.8,
        "starts": rng.random(shape) < 0.15,
        "history": rng.integers(-3, 40, (shape[0], addresses.max_ngram_size - 1)),
    }
    return ids, {key: value for key, value in keys.items() if rng.random() < 0.6}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def test_forms_agree(layout, name, monkeypatch):
    addresses = addresses_of(layout, **SHAPES[name])
    rng = np.random.default_rng(len(name))
    for _ in range(12):
        ids, keys = random_call(rng, addresses)
        expected, history = hash_ids(addresses, ids, **keys)
        assert (expected >= 0).all()
        for form, hash_with in forms(addresses, monkeypatch).items():
            rows, left = hash_with(ids, **keys)
            np.testing.assert_array_equal(rows, expected, err_msg=form)
            np.testing.assert_array_equal(left, history, err_msg=form)


@pytest.mark.parametrize("heads", [1, 8, 9, 16])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("past_caches", [False, True])
def test_output_at_any_address(heads, dtype, threads, past_caches, monkeypatch):
    """Blocks of tokens end inside rows; vectors cross lines of the processor's caches."""
    monkeypatch.setattr(hashing, "_IDS_PER_THREAD", 64)
    if past_caches:  # on any processor
        monkeypatch.setattr(hashing, "_LARGE_IDS", 0)
        monkeypatch.setattr(hashing, "_KERNELS", {})
        monkeypatch.setattr("engram.addressing.kernel.stores_past_caches", lambda n: n % 8 == 0)
    addresses = addresses_of("demo", n_head_per_ngram=heads)
    hasher = Hasher(addresses, form="numba", threads=threads)
    ids = np.random.default_rng(heads).integers(0, V, (3, 347))
    expected, _ = hash_ids(addresses, ids)
    for shift in range(4):
        out = np.empty(expected.size + shift, dtype)[shift:].reshape(expected.shape)
        hasher.hash(ids, out=out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_rows_agree(layout, monkeypatch):
    """Blocks of the kernel begin and end in rows, at ends of documents and at masked positions."""
    addresses = addresses_of(layout, n_head_per_ngram=2, max_ngram_size=4)
    rng = np.random.default_rng(11)
    for shape in [(2, 700), (400, 3), (300, 1)]:
        ids = rng.choice([5, 45, 7, 8, -9, 60, -(2**62)], shape)
        keys = {"keep": rng.random(shape) < 0.8, "starts": rng.random(shape) < 0.1}
        for used in ({}, keys):
            expected, history = hash_ids(addresses, ids, **used)
            for form, hash_with in forms(addresses, monkeypatch).items():
                rows, left = hash_with(ids, **used)
                np.testing.assert_array_equal(rows, expected, err_msg=form)
                np.testing.assert_array_equal(left, history, err_msg=form)


# Stored constants may hold any sizes; the compiled form takes even ones in another way.
@pytest.mark.parametrize("prime", [2, 3, 4, 5, 6, 4096, 8191, 646_403, 2**31 - 1, 34_359_738_337])
def test_remainders_at_the_edges(prime):
    """Mixes next to multiples of a prime, of both signs and up to 63 bits."""
    addresses = addresses_of("qwen_ple", n_head_per_ngram=1, max_ngram_size=2, layer_ids=[1])
    layer = replace(addresses.layers[0], multipliers=(1, 1), primes=((prime,),))
    addresses = replace(addresses, layers=(layer,), raw_vocab_size=2**63 - 1, fill=0, end_id=None)
    rng = np.random.default_rng(prime)
    quotients = rng.integers(-(2**63) // prime + 2, 2**63 // prime - 2, 2000)
    quotients[:3] = -(2**63) // prime + 2, 0, 2**63 // prime - 2
    ids = (quotients[:, None] * prime + [-1, 0, 1, prime // 2, prime // 2 + 1]).reshape(-1, 1)
    rows, _ = Hasher(addresses, form="numba").hash(ids)
    np.testing.assert_array_equal(rows.ravel(), ids.ravel() % prime)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_equal_one_call(layout, monkeypatch):
    addresses = addresses_of(layout, n_head_per_ngram=2, max_ngram_size=4)
    rng = np.random.default_rng(5)
    for _ in range(6):
        ids, keys = random_call(rng, addresses)
        keys.pop("history", None)
        expected, last = hash_ids(addresses, ids, **keys)
        cuts = sorted(rng.integers(0, ids.shape[1] + 1, 3))
        for form, hash_with in forms(addresses, monkeypatch).items():
            history, parts = None, []
            for begin, end in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
                part = {key: value[:, begin:end] for key, value in keys.items()}
                rows, history = hash_with(ids[:, begin:end], history=history, **part)
                parts.append(rows)
            np.testing.assert_array_equal(np.concatenate(parts, 1), expected, err_msg=form)
            np.testing.assert_array_equal(history, last, err_msg=form)


@pytest.mark.parametrize("form", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_dtypes_of_ids(form, dtype):
    addresses = addresses_of("demo", n_head_per_ngram=2)
    ids = np.random.default_rng(0).integers(0, V, (2, 9)).astype(dtype)
    rows, _ = Hasher(addresses, form=form).hash(ids)
    np.testing.assert_array_equal(rows, hash_ids(addresses, ids.astype(np.int64))[0])


@pytest.mark.parametrize("form", ["numpy", "numba"])
def test_arrays_of_any_kind(form):
    addresses = addresses_of("demo", n_head_per_ngram=2)
    ids = np.random.default_rng(0).integers(0, V, (6, 10))
    hasher = Hasher(addresses, form=form)
    expected, _ = hash_ids(addresses, ids[::2, 1::3])
    frozen = ids[::2, 1::3].copy()
    frozen.flags.writeable = False
    for given in (ids[::2, 1::3], ids[::2, 1::3].tolist(), frozen, frozen.astype(">i8")):
        np.testing.assert_array_equal(hasher.hash(given)[0], expected)


@pytest.mark.parametrize("form", ["numpy", "numba"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_hash(form, shape):
    addresses = addresses_of("demo", n_head_per_ngram=2)
    ids = np.empty(shape, dtype=np.int64)
    history = np.arange(2 * shape[0]).reshape(shape[0], 2)
    for hash_with in (
        Hasher(addresses, form=form).hash,
        lambda i, **k: torch_hash(addresses, i, **k),
    ):
        rows, left = hash_with(ids, history=history)
        assert rows.shape == (*shape, 2, 4)
        np.testing.assert_array_equal(left, history)


@pytest.mark.parametrize("form", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_offsets_and_out(form, dtype):
    addresses = addresses_of("demo", n_head_per_ngram=3)
    ids = np.random.default_rng(0).integers(0, V, (2, 7))
    first = np.array([layer.offsets for layer in addresses.layers])
    out = np.full((2, 7, 2, 6), -1, dtype=dtype)
    rows, _ = Hasher(addresses, form=form).hash(ids, offsets=True, out=out)
    assert rows is out
    np.testing.assert_array_equal(out, hash_ids(addresses, ids)[0] + first)


@pytest.mark.parametrize("form", ["numpy", "numba"])
@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
def test_documents_start_with_the_fill(form, layout, monkeypatch):
    monkeypatch.setattr(hashing, "_IDS_PER_THREAD", 1)
    addresses = addresses_of(layout, n_head_per_ngram=2)
    ids = np.random.default_rng(0).integers(0, V, 40).astype(np.uint16)
    bounds = np.array([0, 0, 7, 8, 8, 30, 40, 40])
    expected = [
        hash_ids(addresses, ids[None, begin:end].astype(np.int64))[0][0]
        for begin, end in pairwise(bounds)
    ]
    for threads in (1, 3):
        rows = Hasher(addresses, form=form, threads=threads).hash_documents(ids, bounds)
        np.testing.assert_array_equal(rows, np.concatenate(expected))


@pytest.mark.parametrize("form", ["numpy", "numba"])
@pytest.mark.parametrize("threads", [1, 3])
def test_ids_out_of_range(form, threads, monkeypatch):
    monkeypatch.setattr(hashing, "_IDS_PER_THREAD", 1)
    for layout in ("demo", "qwen_ple"):
        hasher = Hasher(addresses_of(layout, n_head_per_ngram=2), form=form, threads=threads)
        ids = np.zeros((3, 10), dtype=np.int64)
        ids[1, 4], ids[2, 9] = V, V + 7
        with pytest.raises(InputError, match=rf"below {V}, .* got {V} at position \[1, 4\]"):
            hasher.hash(ids)
        with pytest.raises(InputError, match=rf"got {V} at position \[4\]"):
            hasher.hash_documents(ids[1], np.array([0, 2, 10]))
        with pytest.raises(InputError, match=f"{2**64 - 1} at position"):
            hasher.hash(np.array([[2**64 - 1]], dtype=np.uint64))


def test_wrong_calls():
    addresses = addresses_of("demo", n_head_per_ngram=2)
    hasher = Hasher(addresses)
    ids = np.zeros((2, 5), dtype=np.int64)
    for call, message in (
        (lambda: hasher.hash([1, 2]), r"must be \[B, T\], got \[2\]"),
        (lambda: hasher.hash([[1, 2], [3]]), "different lengths"),
        (lambda: hasher.hash([[1.5]]), "must be whole numbers, got float64"),
        (lambda: hasher.hash(ids, keep=np.ones((2, 4), bool)), r"keep must be \[2, 5\]"),
        (lambda: hasher.hash(ids, starts=np.ones(5, bool)), r"starts must be \[2, 5\]"),
        (lambda: hasher.hash(ids, history=np.zeros((2, 3))), r"history must be \[2, 2\]"),
        (lambda: hasher.hash(ids, out=np.zeros((2, 5, 2, 4))), "got float64"),
        (lambda: hasher.hash(ids, out=np.zeros((2, 5, 2, 5), np.int64)), r"\[2, 5, 2, 5\]"),
        (lambda: hasher.hash_documents([1, 2], [0, 1]), "boundaries"),
        (lambda: hasher.hash_documents([1, 2], [0, 2, 1, 2]), "boundaries"),
        (lambda: hasher.hash_documents([1, 2], []), "boundaries"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    for keys in ({"threads": 0}, {"form": "fortran"}):
        with pytest.raises(UsageError):
            Hasher(addresses, **keys)
    huge = addresses_of("demo", n_head_per_ngram=1, engram_table_size=[2**40, 2**40])
    with pytest.raises(InputError, match="int32"):
        Hasher(huge).hash(ids, out=np.zeros((2, 5, 2, 2), np.int32))


def test_constants_without_their_map():
    addresses = replace(addresses_of("demo", n_head_per_ngram=2), token_map=None)
    with pytest.raises(LayoutError, match="lack the token map"):
        Hasher(addresses)
    with pytest.raises(LayoutError, match="lack the token map"):
        hash_ids(addresses, np.zeros((1, 1), dtype=np.int64))
    with pytest.raises(LayoutError, match="no token map"):
        TorchHasher(addresses).hash(torch.zeros(1, 1, dtype=torch.long))
    assert Hasher(addresses.with_map(MAP)).addresses.map_sha256 == map_digest(MAP)


def test_torch_refuses_ids_out_of_range():
    addresses = addresses_of("demo", n_head_per_ngram=2)
    with pytest.raises(IndexError):
        TorchHasher(addresses).hash(torch.tensor([[V]]), token_map=torch.from_numpy(MAP))


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
def test_torch_graph_is_whole(layout):
    addresses = addresses_of(layout, n_head_per_ngram=2)
    hasher = TorchHasher(addresses)
    token_map = torch.from_numpy(MAP) if layout == "demo" else None
    ids = torch.from_numpy(np.random.default_rng(0).integers(-1, V, (2, 6)))
    keep = torch.rand(2, 6) > 0.3
    compiled = torch.compile(
        lambda ids, keep: hasher.hash(ids, token_map=token_map, keep=keep),
        backend="eager",
        fullgraph=True,
    )
    for _ in range(2):
        rows, history = compiled(ids, keep)
        expected, last = hash_ids(addresses, ids.numpy(), keep=keep.numpy())
        np.testing.assert_array_equal(rows.numpy(), expected)
        np.testing.assert_array_equal(history.numpy(), last)


@pytest.mark.parametrize("layout", ["demo", "deepseek_v41"])
def test_a_document_starts_behind_every_end(layout, monkeypatch):
    plain = addresses_of(layout, n_head_per_ngram=2, max_ngram_size=4)
    ending = addresses_of(f"{layout} with ends", n_head_per_ngram=2, max_ngram_size=4)
    ids = np.random.default_rng(3).choice([5, 45, 7, 8, 9, 60], (3, 40))
    starts = np.zeros(ids.shape, dtype=bool)
    starts[:, 1:] = ids[:, :-1] == 5
    expected, _ = hash_ids(plain, ids, starts=starts)
    assert (expected != hash_ids(plain, ids)[0]).any()
    for hash_with in forms(ending, monkeypatch).values():
        np.testing.assert_array_equal(hash_with(ids)[0], expected)


def test_an_end_of_documents_is_part_of_the_fingerprint_and_stored():
    plain, ending = (addresses_of(name, n_head_per_ngram=2) for name in LAYOUTS[::3])
    assert plain.fingerprint != ending.fingerprint
    assert "end_id" not in plain.to_dict()
    assert Addresses.from_dict(ending.to_dict()).end_id == 5
    with pytest.raises(MismatchError, match="differ in: end_id"):
        plain.check(ending.to_dict())
    with pytest.raises(MismatchError, match="differ in: end_id"):
        ending.check(plain.to_dict())
    qwen = addresses_of("qwen_ple", n_head_per_ngram=2)
    assert Addresses.from_dict(qwen.to_dict()).end_id == qwen.fill == 5

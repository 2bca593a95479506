"""Laws of hashing and counting: forms agree, parts add up, caches never change what is read."""

from __future__ import annotations

from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.reference import hash_ids
from engram.config.engram_config import EngramConfig
from engram.corpus.counts.cache_curve import cache_curve
from engram.corpus.counts.distinct import DistinctWindows
from engram.hf.torch_hash import TorchHasher
from engram.nn.row_cache import RowCache
from engram.storage.row_file import RowFile

VOCAB = 24
law = settings(deadline=None, max_examples=60)


def memory(layout):
    heads = 2
    values = {
        "layout": layout,
        "hidden_size": 8,
        "engram_vocab_size": VOCAB,
        "engram_table_size": [40] * (3 if layout == "deepseek_v41" else 2),
        "n_embed_per_ngram": 4,
        "n_head_per_ngram": heads,
        "layer_ids": [0, 2],
        **({"eos_id": 3} if layout == "qwen_ple" else {"pad_id": 2}),
    }
    config = EngramConfig(**values)
    token_map = None if layout == "qwen_ple" else np.arange(VOCAB, dtype=np.int32) // 2
    return Addresses.from_config(config, token_map, pad_id=config.pad_id)


LAYOUTS = ["demo", "deepseek_v41", "qwen_ple"]


@st.composite
def calls(draw):
    """Ids of some rows, with masks and starts, and where to cut them into two calls."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    shape = (batch, length)
    whole = st.lists(st.integers(0, VOCAB - 1), min_size=batch * length, max_size=batch * length)
    flags = st.lists(st.booleans(), min_size=batch * length, max_size=batch * length)
    ids = np.array(draw(whole)).reshape(shape)
    keep = np.array(draw(flags)).reshape(shape) if draw(st.booleans()) else None
    starts = np.array(draw(flags)).reshape(shape) if draw(st.booleans()) else None
    return ids, keep, starts, draw(st.integers(0, length))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_forms_of_the_hash_agree_in_one_call_and_in_two(layout):
    addresses = memory(layout)
    forms = {form: Hasher(addresses, form=form) for form in ("numpy", "numba")}
    by_torch = TorchHasher(addresses)
    token_map = addresses.token_map
    torch_map = None if token_map is None else torch.from_numpy(token_map.astype(np.int64))

    def as_torch(array):
        return None if array is None else torch.from_numpy(array.copy())

    @law
    @given(call=calls())
    def agree(call):
        ids, keep, starts, cut = call
        expected, past = hash_ids(addresses, ids, keep, starts)
        for hasher in forms.values():
            found, history = hasher.hash(ids, keep=keep, starts=starts)
            assert (found == expected).all()
            assert (history == past).all()
        found, history = by_torch.hash(
            as_torch(ids), token_map=torch_map, keep=as_torch(keep), starts=as_torch(starts)
        )
        assert (found.numpy() == expected).all()
        assert (history.numpy() == past).all()
        history, parts = None, []
        for part in (slice(0, cut), slice(cut, None)):
            masks = [None if mask is None else mask[:, part] for mask in (keep, starts)]
            hashed, history = hash_ids(addresses, ids[:, part], *masks, history)
            parts.append(hashed)
        assert (np.concatenate(parts, axis=1) == expected).all()
        assert (history == past).all()

    agree()


@law
@given(
    order=st.integers(2, 4),
    tokens=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    most=st.sampled_from([4, 1000]),
)
def test_windows_that_are_merged_are_those_that_are_added(order, tokens, cut, most):
    def windows(part):
        slots = np.zeros((order, len(part)), np.uint32)
        for k in range(order):
            slots[k, k:] = part[: len(part) - k]
        return slots

    def add(distinct, part):
        ids, boundaries = np.array(part, np.uint32), np.array([0, len(part)])
        distinct.add(ids, boundaries, 0, len(part), fill=0)

    parts = [tokens[:cut], tokens[cut:]]
    together = DistinctWindows(order, 5, most)
    for part in parts:
        add(together, part)
    first = DistinctWindows(order, 5, most)
    add(first, parts[0])
    first.count()
    second = DistinctWindows(order, 5, most)
    add(second, parts[1])
    second.count()
    low, high = sorted((first, second), key=lambda one: one.level)
    high.merge(low.sets())
    if most > len(tokens):
        seen = Counter(tuple(window) for part in parts for window in windows(part).T.tolist())
        assert high.count() == together.count() == len(seen)
        counts = sorted(int(n) for _, many in high.sets() for n in many)
        assert counts == sorted(seen.values())
    else:
        assert high.count() == together.count()
        assert high.level == together.level


@law
@given(rows=st.lists(st.lists(st.integers(0, 39), min_size=4, max_size=4), min_size=2, max_size=40))
def test_cache_curves_are_those_of_a_simulated_lru(rows):
    addresses = memory("demo")
    layer = addresses.layers[0]
    ids = np.array(rows) % np.array(layer.heads)
    found = cache_curve(layer, ids)
    looked_up = [(column, row) for line in ids.tolist() for column, row in enumerate(line)]
    assert found.lookups == len(looked_up)
    assert found.distinct_rows == len(set(looked_up))
    for point in found.points:
        cache, hits = OrderedDict(), 0
        for row in looked_up:
            hits += row in cache
            cache[row] = True
            cache.move_to_end(row)
            if len(cache) > point.rows:
                cache.popitem(last=False)
        assert point.lru_cold == pytest.approx(hits / len(looked_up))


@pytest.fixture(scope="module")
def row_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows"
    values = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
    path.write_bytes(b"head" + values.tobytes())
    return path, values


@law
@given(
    calls=st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=20), max_size=10),
    lines=st.integers(1, 60),
)
def test_a_cache_never_changes_what_is_read(row_file, calls, lines):
    path, values = row_file
    cache = RowCache(RowFile(path, 4, 50, 6), lines)
    for ids in calls:
        out = np.empty((len(ids), 6), np.uint8)
        cache.read(np.array(ids), out)
        assert (out == values[ids]).all()

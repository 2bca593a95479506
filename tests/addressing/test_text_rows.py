"""N-grams and rows of a text equal those that are found token by token."""

from __future__ import annotations

import numpy as np
import pytest

from engram import EngramConfig
from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids
from engram.addressing.text_rows import ngrams_of, rows_of

V = 61
MAP = (np.arange(V, dtype=np.int32) % 40).astype(np.int32)


def addresses_of(ends: bool) -> Addresses:
    config = EngramConfig(
        hidden_size=8,
        engram_vocab_size=V,
        engram_table_size=[300, 400, 500],
        max_ngram_size=4,
        n_embed_per_ngram=8,
        n_head_per_ngram=2,
        layer_ids=[7, 0],
        pad_id=2,
        **({"ends_after_eos": True, "eos_id": 5} if ends else {}),
    )
    return Addresses.from_config(config, MAP, 2)


def expected(addresses, ids, starts):
    """Slots and first positions, one token and one step back at a time."""
    slots, first = [], []
    for at, token in enumerate(ids):
        read, blocked = [], token >= V
        begin = at + 1 if blocked else at
        for back in range(4):
            place = at - back
            if back and not blocked:
                ended = ids[place] == addresses.end_id if place >= 0 else True
                blocked = starts[place + 1] or ended or ids[place] >= V
            read.append(addresses.fill if blocked else int(MAP[ids[place]]))
            if not blocked:
                begin = place
        slots.append(read)
        first.append([max(begin, at + 1 - order) for order in (2, 3, 4)])
    return slots, first


@pytest.mark.parametrize("ends", [False, True])
def test_ngrams_and_rows_of_random_texts(ends):
    addresses, numbers = addresses_of(ends), np.random.default_rng(0)
    for _ in range(20):
        # Ids from 61 on are of tokens that the memory's tokenizer did not have.
        ids = numbers.choice([*range(12), 45, 60, 61, 70], 40)
        starts = numbers.random(40) < 0.1
        starts[0] = True
        found = ngrams_of(addresses, ids, starts)
        slots, first = expected(addresses, ids.tolist(), starts.tolist())
        assert found.slots.tolist() == slots
        assert found.first.tolist() == first
        read = rows_of(addresses, ids, starts)
        known = ids < V
        hashed = hash_ids(addresses, np.where(known, ids, 0)[None], known[None], starts[None])[0][0]
        assert np.array_equal(read.hash_ids.reshape(hashed.shape), hashed)
        for slot, layer in enumerate(addresses.layers):
            flat = (read.rows - read.hash_ids)[:, slot].reshape(len(ids), -1)
            assert (flat == np.array(layer.offsets)).all()


def test_one_document_needs_no_starts():
    addresses, ids = addresses_of(ends=True), np.array([7, 5, 8, 9, 61, 3, 4])
    starts = np.zeros(7, dtype=bool)
    starts[0] = True
    one, other = ngrams_of(addresses, ids), ngrams_of(addresses, ids, starts)
    assert np.array_equal(one.first, other.first)
    assert np.array_equal(one.slots, other.slots)
    assert one.first[:, 0].tolist() == [0, 0, 2, 2, 5, 5, 5]
    assert np.array_equal(rows_of(addresses, ids).rows, rows_of(addresses, ids, starts).rows)

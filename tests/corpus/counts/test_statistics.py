"""Statistics equal a count with Python sets, for every layout; estimates keep to their error."""

from __future__ import annotations

import numpy as np
import pytest

from engram.corpus.counts import distinct as distinct_module
from engram.corpus.counts import statistics as statistics_module
from engram.corpus.counts.distinct import DistinctWindows
from engram.corpus.counts.statistics import Statistics
from engram.errors import InputError
from support.counted import (
    MEMORIES,
    add_windows,
    addresses_of,
    batch_of,
    brute_force,
    random_documents,
)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", MEMORIES)
def test_equal_to_python_sets(monkeypatch, name, threads):
    monkeypatch.setattr(statistics_module, "_CHUNK", 97)
    addresses = addresses_of(name)
    documents = random_documents(7, 200)
    statistics = Statistics(addresses, threads=threads)
    for start in range(0, len(documents), 37):
        statistics.add(batch_of(documents[start : start + 37]))
    rows, windows = brute_force(addresses, documents)
    layers = statistics.layers()
    assert [layer.layer_id for layer in layers] == [5, 0, 2]
    for index, layer in enumerate(layers):
        assert len(layer.heads) == addresses.n_columns
        for column, head in enumerate(layer.heads):
            assert (head.order - 2) * addresses.n_heads + head.head == column
            assert head.rows == addresses.layers[index].heads[column]
            assert head.rows_hit == len(rows[index, column])
            assert head.load == head.rows_hit / head.rows
            assert head.distinct_ngrams == len(windows[head.order])
            assert head.collisions == head.distinct_ngrams - head.rows_hit
            assert (head.kind, head.relative_error) == ("exact", 0.0)


@pytest.mark.parametrize("prime", [2, 3, 5, 646_403, 2**31 - 1, 4_294_967_311])
def test_remainders_by_primes_of_every_size(prime):
    from engram.corpus.counts import count_kernels

    rng = np.random.default_rng(prime)
    slots = rng.integers(0, 2**17, (3, 5000)).astype(np.uint32)
    multipliers = rng.integers(1, 2**46, 3).astype(np.uint64) | np.uint64(1)
    bits = np.zeros(-(-prime // 64), dtype=np.uint64)
    bases = np.zeros(1, dtype=np.int64)
    count_kernels.mark_rows(slots, multipliers, np.array([prime], np.uint64), bases, bits)
    mixes = np.bitwise_xor.reduce(slots.astype(np.uint64) * multipliers[:, None], axis=0)
    rows = np.unique(mixes % np.uint64(prime))
    words, places = np.divmod(rows, np.uint64(64))
    expected = dict.fromkeys(words.tolist(), 0)
    for word, place in zip(words.tolist(), places.tolist(), strict=True):
        expected[word] |= 1 << place
    assert {word: int(bits[word]) for word in expected} == expected


@pytest.mark.parametrize("most", [300, 1000, 3000])
def test_a_sample_holds_no_word_of_an_earlier_level(monkeypatch, most):
    """Words wait in piles while the level rises: they must not come into the sample later."""
    monkeypatch.setattr(distinct_module, "_PILE_WORDS", 64)
    rng = np.random.default_rng(most)
    windows = DistinctWindows(2, 5000, most)
    whole = np.empty((2, 0), np.uint32)
    for _ in range(40):
        slots = rng.integers(0, 5000, (2, 2000)).astype(np.uint32)
        whole = np.concatenate([whole, slots], axis=1)
        add_windows(windows, slots)
    merged = DistinctWindows(2, 5000, most)
    for part in np.array_split(whole, 7, axis=1):
        piece = DistinctWindows(2, 5000, 2**62, level=0)
        add_windows(piece, part)
        merged.merge(piece.sets())
    for found in (windows, merged):
        assert found.level > 0
        kept = np.concatenate([words for words, _ in found.sets()])
        assert not (kept & np.uint64(2**found.level - 1)).any()
    assert (windows.count(), windows.level) == (merged.count(), merged.level)
    true = len(np.unique(whole[0].astype(np.int64) * 5000 + whole[1]))
    assert windows.count() == pytest.approx(true, rel=2 * windows.relative_error)


def test_too_many_distinct_are_estimated_within_the_error_stated():
    addresses = addresses_of("demo")
    documents = random_documents(3, 3000)
    statistics = Statistics(addresses, most_distinct=1500)
    for start in range(0, len(documents), 100):
        statistics.add(batch_of(documents[start : start + 100]))
    rows, windows = brute_force(addresses, documents)
    for column, head in enumerate(statistics.layers()[0].heads):
        truth = len(windows[head.order])
        assert truth > 3000
        assert head.kind == "estimated"
        assert 0.02 < head.relative_error < 0.08
        assert abs(head.distinct_ngrams - truth) < 2 * head.relative_error * truth
        assert head.rows_hit == len(rows[0, column])
        assert head.collisions == head.distinct_ngrams - head.rows_hit


@pytest.mark.parametrize(
    ("order", "vocab_size", "is_exact"), [(4, 99_092, True), (6, 99_092, False)]
)
def test_windows_wider_than_64_bits(order, vocab_size, is_exact):
    rng = np.random.default_rng(0)
    slots = rng.integers(vocab_size - 3, vocab_size, (order, 20_000)).astype(np.uint32)
    slots[:, 5000:] = rng.integers(0, vocab_size, (order, 15_000))
    windows = DistinctWindows(order, vocab_size)
    for start in range(0, 20_000, 999):
        add_windows(windows, slots[:, start : start + 999])
    assert windows.count() == len(set(map(tuple, slots.T.tolist())))
    assert windows.is_exact == is_exact
    assert windows.relative_error == 0 if is_exact else 0 < windows.relative_error < 1e-9


def test_ids_beyond_the_tokenizer_are_refused():
    with pytest.raises(InputError, match="must be below 544, .* got 544"):
        Statistics(addresses_of("demo")).add(batch_of([[1, 2], [544]]))

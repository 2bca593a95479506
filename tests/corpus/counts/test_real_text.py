"""Statistics and cache curves of a million tokens of English, counted again with Python's sets."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids, look_back
from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.counts.cache_curve import CacheSample
from engram.corpus.counts.statistics import Statistics
from engram.corpus.hash.hash_text import find_memory, sized_for
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.tokenise import TokenBatch, tokenise

pytestmark = pytest.mark.real

TOKENS = 10**6


@dataclass(frozen=True)
class Text:
    """A million tokens: as batches, as windows ``[N, n]``, and as hash ids ``[n, L, C]``."""

    addresses: Addresses
    batches: list[TokenBatch]
    windows: Any
    ids: Any


@pytest.fixture(scope="module")
def text(real_assets):
    file = load_tokenizer(str(real_assets / "tokenizers" / "gpt2"))
    config = replace(sized_for(file), engram_table_size=[3_000_000] * 2)
    addresses = find_memory(config)[2]
    batches, windows, ids, left = [], [], [], TOKENS
    reader = TextReader(real_assets / "english.txt", TextOptions(on_error="skip"))
    for batch in tokenise(reader, file):
        size = min(left, len(batch.tokens))
        bounds = np.minimum(batch.boundaries, size)
        bounds = bounds[: int(np.searchsorted(bounds, size)) + 1]
        batches.append(TokenBatch(batch.tokens[:size], bounds, 0))
        tokens = batch.tokens[None, :size].astype(np.int64)
        starts = np.zeros((1, size), bool)
        starts[0, bounds[:-1]] = True
        windows.append(look_back(addresses, tokens, starts=starts)[0][0].T)
        ids.append(hash_ids(addresses, tokens, starts=starts)[0][0])
        left -= size
        if not left:
            break
    return Text(addresses, batches, np.concatenate(windows, axis=1), np.concatenate(ids))


def test_statistics_equal_python_sets(text):
    statistics = Statistics(text.addresses, threads=2)
    for batch in text.batches:
        statistics.add(batch)
    times = {
        order: Counter(zip(*text.windows[:order].tolist(), strict=True))
        for order in text.addresses.orders
    }
    for index, layer in enumerate(statistics.layers()):
        for column, head in enumerate(layer.heads):
            assert head.kind == "exact"
            assert head.distinct_ngrams == len(times[head.order])
            assert head.rows_hit == len(set(text.ids[:, index, column].tolist()))
            assert head.load == head.rows_hit / text.addresses.layers[index].heads[column]
            assert head.collisions == head.distinct_ngrams - head.rows_hit
            assert 0.2 < head.load < 0.9
    for curve in statistics.growth():
        for point in curve.points[::4]:
            beginning = text.windows[: curve.order, : point.tokens].tolist()
            assert point.distinct_ngrams == len(set(zip(*beginning, strict=True)))
    layer = statistics.layers()[1]
    for position, found in enumerate(layer.orders):
        columns = range(position * text.addresses.n_heads, (position + 1) * text.addresses.n_heads)
        windows = list(zip(*text.windows[: found.order].tolist(), strict=True))
        shared = dict.fromkeys(times[found.order], 0)
        for column in columns:
            row_of = dict(zip(windows, text.ids[:, 1, column].tolist(), strict=True))
            owners = Counter(row_of.values())
            for window, row in row_of.items():
                shared[window] += owners[row] > 1
        heads = len(columns)
        anywhere = [window for window, count in shared.items() if count]
        everywhere = [window for window, count in shared.items() if count == heads]
        assert 0 < len(everywhere) < len(anywhere) < len(shared)
        assert found.any_head == len(anywhere) / len(shared)
        assert found.every_head == len(everywhere) / len(shared)
        counts = times[found.order]
        assert found.occurrences_any_head == sum(map(counts.get, anywhere)) / TOKENS
        assert found.occurrences_every_head == sum(map(counts.get, everywhere)) / TOKENS


def test_the_cache_curve_equals_a_simulated_lru_at_five_sizes(text):
    sample = CacheSample(text.addresses, 10**6)
    for batch in text.batches:
        sample.add(batch)
    curve = sample.layers()[0]
    offsets = np.array(text.addresses.layers[0].offsets)
    lookups = (text.ids[:, 0] + offsets).reshape(-1).tolist()
    assert curve.lookups == len(lookups) == TOKENS * text.addresses.n_columns
    assert curve.distinct_rows == len(set(lookups))
    half = len(lookups) // 2
    points = [curve.points[len(curve.points) * step // 6] for step in range(1, 6)]
    for point in points:
        cache: OrderedDict[int, None] = OrderedDict()
        hits = [0, 0]
        for number, row in enumerate(lookups):
            if row in cache:
                cache.move_to_end(row)
                hits[number >= half] += 1
            else:
                cache[row] = None
                if len(cache) > point.rows:
                    cache.popitem(last=False)
        assert point.lru_cold == sum(hits) / len(lookups)
        assert point.lru_warm == hits[1] / (len(lookups) - half)
    assert len({point.rows for point in points}) == 5
    assert 0.05 < points[0].lru_cold < points[-1].lru_cold < 0.999

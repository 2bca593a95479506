"""Tokens and n-grams that another text holds, counted as plain Python counts them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer_files import describe_tokenizer, load_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.config.engram_config import EngramConfig
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError
from engram.evaluation import seen_text
from engram.evaluation.counted_tokens import CountedTokens
from engram.evaluation.seen_text import find_seen
from engram.training.documents import TrainingDocuments
from support import tiny
from support.paths import BPE

CONTEXT = 12
OPTIONS = TextOptions(add_eos=False)


def random_documents(seed, count, low=0):
    """Documents of few different tokens, so that n-grams of every order occur again."""
    numbers = np.random.default_rng(seed)
    return [
        numbers.integers(60, 75, size).astype(np.uint16).tolist()
        for size in numbers.integers(low, 60, count)
    ]


def addresses_of(layout="demo"):
    file = load_tokenizer(str(BPE))
    if layout == "demo":
        return Addresses.from_config(tiny.memory_config(), compressed_map(file), 2)
    sizes = {"engram_vocab_size": tiny.VOCAB, "engram_table_size": [406, 406], "max_ngram_size": 3}
    heads = {"n_embed_per_ngram": 8, "n_head_per_ngram": 2, "hidden_size": 32, "layer_ids": [1]}
    config = EngramConfig(layout=layout, eos_id=70, **sizes, **heads)
    return Addresses.from_config(config, None)


def ngrams_of(addresses, ids, order, end):
    """What an n-gram of one order reads at each position, blocked as the layout says."""
    mapped = list(ids) if addresses.token_map is None else addresses.token_map[ids].tolist()
    for place in range(len(ids)):
        read, blocked = [], False
        for back in range(order):
            at = place - back
            # The token that ends a document is read by itself, and nothing is read across it.
            blocked = blocked or at < 0 or (back > 0 and end is not None and ids[at] == end)
            read.append(addresses.fill if blocked else mapped[at])
        yield tuple(read)


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
@pytest.mark.parametrize("chunk", [7, 2**18])
def test_orders_and_counts_equal_those_of_plain_python(layout, chunk, monkeypatch):
    monkeypatch.setattr(seen_text, "_CHUNK_TOKENS", chunk)
    addresses = addresses_of(layout)
    evaluated, other = random_documents(1, 12, low=2), random_documents(2, 40)
    counted = CountedTokens([np.array(it) for it in evaluated], CONTEXT, load_tokenizer(str(BPE)))
    documents = TrainingDocuments(other, BPE, options=OPTIONS, held_out_share=None)
    left_out = [3, 7, 8]
    found = find_seen(counted, documents, addresses, left_out)
    kept = [ids for number, ids in enumerate(other) if number not in left_out]
    counts = Counter(token for ids in kept for token in ids)
    assert {number: int(n) for number, n in enumerate(found.counts) if n} == dict(counts)
    end = addresses.end_id
    seen = {
        order: {it for ids in kept for it in ngrams_of(addresses, np.array(ids, int), order, end)}
        for order in addresses.orders
    }
    expected = []
    for window in counted.windows:
        by_order = {
            order: list(ngrams_of(addresses, window.ids, order, end)) for order in addresses.orders
        }
        for place in range(len(window.ids) - 1):
            hits = [order for order in addresses.orders if by_order[order][place] in seen[order]]
            expected.append(max(hits, default=0))
    assert found.orders.tolist() == expected
    assert {2, addresses.max_ngram_size} <= set(expected)


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
def test_tokens_that_were_added_after_attaching_are_masked(layout):
    """No n-gram holds an added token, or reaches over it; all the same it is counted."""
    addresses, encoder = addresses_of(layout), load_tokenizer(str(BPE)).tokenizer
    encoder = Tokenizer.from_str(encoder.to_str())
    encoder.add_tokens(["<new>"])
    added, file = encoder.token_to_id("<new>"), describe_tokenizer(encoder)
    assert added >= addresses.raw_vocab_size
    evaluated = np.array([60, 61, 62, added, 61, 62, 60, added, added, 62, 60, 61])
    other = [[60, 61, 62, 61], [62, added, 60, 61, 62, 60], [added]]
    documents = TrainingDocuments(other, file, options=OPTIONS, held_out_share=None)
    found = find_seen(CountedTokens([evaluated], CONTEXT, file), documents, addresses)
    assert found.counts[added] == 2
    assert found.counts[60] == 3
    longest = addresses.max_ngram_size
    assert found.orders[:4].tolist() == [longest] * 3 + [0]
    # After an added token, "62" is read as it is at the start of a document.
    assert found.orders[7:10].tolist() == [0, 0, longest]


def test_a_text_that_is_wholly_evaluated_was_not_seen():
    documents = TrainingDocuments([[60, 61], [62, 63]], BPE, options=OPTIONS, held_out_share=None)
    counted = CountedTokens([np.array([60, 61])], CONTEXT, load_tokenizer(str(BPE)))
    with pytest.raises(InputError, match="Every token of the seen text is evaluated"):
        find_seen(counted, documents, addresses_of(), [0, 1])


def test_a_large_text_is_read_in_pieces(monkeypatch):
    sizes = []
    real = TrainingDocuments.read

    def read(self, begin, end):
        sizes.append(end - begin)
        return real(self, begin, end)

    monkeypatch.setattr(TrainingDocuments, "read", read)
    monkeypatch.setattr(seen_text, "_CHUNK_TOKENS", 100)
    documents = TrainingDocuments(
        random_documents(2, 40), BPE, options=OPTIONS, held_out_share=None
    )
    counted = CountedTokens([np.array([60, 61])], CONTEXT, load_tokenizer(str(BPE)))
    find_seen(counted, documents, addresses_of())
    assert max(sizes) == 100
    assert sum(sizes) == documents.n_tokens
    assert len(sizes) > 5

"""Groups of tokens: their sums are those of the whole; parts of words are what people call so."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from engram.addressing.tokenizer_files import describe_tokenizer, load_tokenizer
from engram.evaluation.positions import long_windows, position_buckets
from engram.evaluation.token_groups import frequency_labels, group_tokens, ngram_labels
from engram.evaluation.word_parts import WORD_PARTS, word_parts
from support.paths import BPE, WORD


def test_the_sums_of_groups_are_those_of_the_whole():
    numbers = np.random.default_rng(0)
    on, off = numbers.gamma(2, 1, (2, 5000))
    labels = numbers.integers(0, 6, 5000)
    labels[labels == 4] = 1  # a group without a token
    groups = group_tokens("word_part", list("abcdef"), labels, on, off)
    assert [it.group for it in groups] == list("abcdf")
    assert sum(it.tokens for it in groups) == 5000
    assert sum(it.tokens * it.nats_on for it in groups) == pytest.approx(on.sum())
    assert sum(it.tokens * it.nats_off for it in groups) == pytest.approx(off.sum())
    assert sum(it.share_of_gain for it in groups) == pytest.approx(1)
    assert groups[2].gain == pytest.approx((off - on)[labels == 2].mean())
    assert group_tokens("ngram", ["a"], labels * 0, on, on)[0].share_of_gain is None


def test_frequencies_are_grouped_by_their_digits():
    counts = np.array([0, 1, 9, 10, 99, 100, 12345])
    names, labels = frequency_labels(counts)
    assert [names[label] for label in labels] == [
        *("0", "1-9", "1-9", "10-99", "10-99", "100-999", "10000-99999"),
    ]
    names, labels = frequency_labels(np.array([0, 0]))
    assert [names[label] for label in labels] == ["0", "0"]
    for power in range(1, 15):  # the logarithm of 1000 is 2.9999999999999996
        names, labels = frequency_labels(np.array([10**power - 1, 10**power]))
        assert names[labels[1]].startswith(f"{10**power}-")
        assert names[labels[0]].endswith(f"-{10**power - 1}")


def test_orders_of_ngrams_have_names():
    names, labels = ngram_labels(np.array([0, 2, 4, 3]), 4)
    assert [names[label] for label in labels] == ["none", "2", "4", "3"]


def test_positions_are_grouped_by_powers_of_two():
    positions = np.array([1, 2, 3, 4, 7, 8, 20, 1])
    nats = {"on": np.arange(8.0), "off": np.ones(8)}
    found = position_buckets(positions, nats, np.ones(8, dtype=bool))
    assert [(it.first, it.last, it.tokens) for it in found] == [
        *((1, 1, 2), (2, 3, 2), (4, 7, 2), (8, 15, 1), (16, 20, 1)),
    ]
    assert [it.runs["on"] for it in found] == [3.5, 1.5, 3.5, 5, 6]
    assert found[0].to_dict() == {"first": 1, "last": 1, "tokens": 2, "runs": found[0].runs}


def test_positions_are_those_of_full_windows_if_there_is_one():
    full = long_windows([4, 2, 4, 3], 4)
    assert full.to_dict() == {"least_tokens": 4, "windows": 2, "left_out": 2}
    assert full.tokens.tolist() == [True] * 3 + [False] + [True] * 3 + [False] * 2
    (note,) = full.notes
    assert "of 2 windows of at least 4 tokens" in note
    positions, nats = np.array([1, 2, 3, 1, 1, 2, 3, 1, 2]), {"on": np.arange(9.0)}
    found = position_buckets(positions, nats, full.tokens)
    assert [(it.first, it.last, it.tokens) for it in found] == [(1, 1, 2), (2, 3, 4)]
    assert [it.runs["on"] for it in found] == [2, (1 + 2 + 5 + 6) / 4]
    # No window is full: those of at least half of the longest.
    short = long_windows([9, 5, 4, 2], 100)
    assert short.to_dict() == {"least_tokens": 5, "windows": 2, "left_out": 2}
    assert long_windows([4, 4], 4).notes == ()


def parts_of(file, ids):
    """The part of each token, each after the one before it; the first after a special token."""
    special = next(
        it for it, token in file.tokenizer.get_added_tokens_decoder().items() if token.special
    )
    ids = np.array(ids)
    found = word_parts(ids, np.array([special, *ids[:-1]]), file)
    return [WORD_PARTS[part] for part in found]


def test_parts_of_words_of_a_byte_level_tokenizer():
    file = load_tokenizer(str(BPE))
    encode = file.tokenizer.encode
    for text in ("Alexander the Great", "  the", "a1 22, ...", "größer 字", "\n\nthe\tway"):
        ids = encode(text, add_special_tokens=False).ids
        tokens = [file.tokenizer.decode([it]) for it in ids]
        letters_before = False
        for token, part in zip(tokens, parts_of(file, ids), strict=True):
            inner = token.strip()
            if "\ufffd" in token:
                expected = "part of a character"
            elif not inner:
                expected = "space or line break"
            elif inner.isnumeric():
                expected = "digits"
            elif not any(map(str.isalnum, inner)):
                expected = "punctuation"
            else:
                goes_on = letters_before and not token[0].isspace()
                expected = "inside a word" if goes_on else "start of a word"
            assert part == expected, (text, token)
            letters_before = token[-1].isalnum()
    assert parts_of(file, [1]) == ["special token"]


def small(vocabulary, decoder):
    tokenizer = Tokenizer(models.WordLevel({it: i for i, it in enumerate(vocabulary)}, "<unk>"))
    tokenizer.add_special_tokens(["<unk>"])
    if decoder is not None:
        tokenizer.decoder = decoder
    return describe_tokenizer(tokenizer)


def test_parts_of_words_of_other_tokenizers():
    pieces = ["<unk>", "▁the", "way", "▁", "<0x0A>", "<0xE5>", "▁12", "!"]
    sentencepiece = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    for decoder in (sentencepiece, decoders.Metaspace()):
        assert parts_of(small(pieces, decoder), range(8)) == [
            *("special token", "start of a word", "inside a word", "space or line break"),
            *("space or line break", "part of a character", "digits", "punctuation"),
        ]
    file = small(["<unk>", "the", "##way", "was"], decoders.WordPiece())
    assert parts_of(file, [1, 2, 3]) == ["start of a word", "inside a word", "start of a word"]
    file = load_tokenizer(str(WORD))
    words = [it for it in file.tokenizer.get_vocab() if it.isalpha()][:2]
    ids = [file.tokenizer.token_to_id(it) for it in words]
    assert parts_of(file, ids) == ["start of a word", "start of a word"]

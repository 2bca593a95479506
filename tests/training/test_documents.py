"""TrainingDocuments: the same documents from a text and a corpus, and a split that holds."""

from __future__ import annotations

import numpy as np
import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text.text_options import TextOptions
from engram.errors import CorruptFileError, InputError, MismatchError, UsageError
from engram.training import documents
from engram.training.documents import TrainingDocuments, random_bits
from support.hashed import TEXT, documents_of
from support.paths import BPE, WORD


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(TEXT)
    return text


@pytest.fixture(scope="module")
def corpus(text):
    """The same text as token shards of many documents each."""
    folder = text.with_name("corpus")
    build_corpus(text, BPE, folder, options=TextOptions(shard_tokens=300))
    return folder


def tokens_of(found):
    return [found.tokens(number).tolist() for number in range(len(found))]


def test_a_text_its_corpus_and_its_strings_hold_the_same_documents(text, corpus):
    from_text = TrainingDocuments(text, BPE)
    from_corpus = TrainingDocuments(corpus, BPE)
    assert len(list(corpus.glob("tokens-*.npy"))) > 10
    assert tokens_of(from_text) == tokens_of(from_corpus)
    assert from_text.n_tokens == from_corpus.n_tokens == sum(map(len, tokens_of(from_text)))
    assert from_text.training.tolist() == from_corpus.training.tolist()
    assert from_text.held_out.tolist() == from_corpus.held_out.tolist()
    strings, encoded = documents_of("texts")
    assert tokens_of(TrainingDocuments(strings, BPE)) == encoded
    assert tokens_of(TrainingDocuments(documents_of("ids")[0], BPE)) == encoded
    without = TrainingDocuments(strings, BPE, options=TextOptions(add_eos=False))
    assert tokens_of(without) == [ids[:-1] for ids in encoded]


def test_parts_of_documents_are_read(text, corpus):
    for found in (TrainingDocuments(text, BPE), TrainingDocuments(corpus, BPE)):
        whole = found.tokens(40).tolist()
        assert len(whole) > 6
        assert found.tokens(40, 2, 5).tolist() == whole[2:5]
        assert found.tokens(40, 3).tolist() == whole[3:]
        assert found.tokens(40, 3, 10**6).tolist() == whole[3:]


def test_the_split_is_a_function_of_number_seed_and_share():
    texts, _ = documents_of("ids")
    many = TrainingDocuments(texts * 20, BPE)
    assert sorted([*many.training, *many.held_out]) == list(range(3000))
    assert 100 < len(many.held_out) < 200
    fewer = TrainingDocuments(texts * 10, BPE)
    assert set(fewer.held_out) == {number for number in many.held_out if number < 1500}
    assert set(TrainingDocuments(texts * 20, BPE, seed=1).held_out) != set(many.held_out)
    more = TrainingDocuments(texts * 20, BPE, held_out_share=0.5)
    assert set(more.held_out) > set(many.held_out)


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_document_of_two_tokens_is_left_on_either_side(share):
    texts = [[5], [6, 7], [8], [9, 10, 11], [12]]
    options = TextOptions(add_eos=False)
    found = TrainingDocuments(texts, BPE, options=options, held_out_share=share)
    assert len(found.held_out) == 1
    assert {*found.held_out} < {1, 3}
    assert {1, 3} - {*found.held_out} <= {*found.training}
    with pytest.raises(InputError, match="At least two documents of two tokens"):
        TrainingDocuments([[5], [6, 7], [8]], BPE, options=options)


def test_without_a_share_every_document_is_held_out():
    texts = [[5], [6, 7], [8], [9, 10, 11], [12, 13]]
    options = TextOptions(add_eos=False)
    found = TrainingDocuments(texts, BPE, options=options, held_out_share=None)
    assert sorted(found.held_out) == [1, 3, 4]
    assert found.training.tolist() == []
    orders = {tuple(found.divided(None, seed).held_out) for seed in range(20)}
    assert len(orders) > 3
    one = TrainingDocuments([[5], [6, 7]], BPE, options=options, held_out_share=None)
    assert one.held_out.tolist() == [1]
    with pytest.raises(InputError, match="None of 2 documents has two tokens"):
        TrainingDocuments([[5], [6]], BPE, options=options, held_out_share=None)


def test_documents_are_divided_again_without_reading_them_again(text):
    every = TrainingDocuments(text, BPE, held_out_share=None)
    digest = every.sha256
    again, alike = every.divided(0.3, 5), TrainingDocuments(text, BPE, held_out_share=0.3, seed=5)
    assert again.training.tolist() == alike.training.tolist()
    assert again.held_out.tolist() == alike.held_out.tolist()
    assert again.sha256 == alike.sha256 == digest
    assert again.tokens(3).base is every.tokens(3).base
    assert len(every.training) == 0
    with pytest.raises(UsageError, match="above 0 and below 1"):
        every.divided(1.0, 0)


def test_tokens_of_all_documents_are_read_by_place(text, corpus):
    found = [TrainingDocuments(source, BPE, held_out_share=None) for source in (text, corpus)]
    ends = found[0].boundaries
    whole = np.concatenate([found[0].tokens(number) for number in range(len(ends) - 1)])
    for begin, end in ((0, len(whole)), (0, 1), (17, 900), (int(ends[5]), int(ends[7]))):
        for source in found:
            tokens, starts = source.read(begin, end)
            assert tokens.tolist() == whole[begin:end].tolist()
            assert np.flatnonzero(starts).tolist() == [
                int(it) - begin for it in ends[:-1] if begin <= it < end
            ]


def test_held_out_documents_are_read_up_to_some_tokens(corpus):
    found = TrainingDocuments(corpus, BPE, held_out_share=0.3)
    every = found.read_held_out()
    assert [it.tolist() for it in every] == [found.tokens(n).tolist() for n in found.held_out]
    some = found.read_held_out(100)
    assert [it.tolist() for it in some] == [it.tolist() for it in every[: len(some)]]
    assert 1 <= sum(map(len, some)) <= 100 < sum(map(len, every[: len(some) + 1]))
    assert len(found.read_held_out(1)) == 1


def test_digests_follow_the_tokens(text, corpus):
    digest = TrainingDocuments(text, BPE).sha256
    assert digest == TrainingDocuments(text, BPE, seed=5, held_out_share=0.5).sha256
    assert digest != TrainingDocuments(text, BPE, options=TextOptions(add_eos=False)).sha256
    assert TrainingDocuments(corpus, BPE).sha256 == TrainingDocuments(corpus, BPE).sha256
    one, other = ([[5, 6, 7], [8, 9]], [[5, 6], [7, 8, 9]])
    options = TextOptions(add_eos=False)
    assert (
        TrainingDocuments(one, BPE, options=options).sha256
        != TrainingDocuments(other, BPE, options=options).sha256
    )


def test_random_bits_are_known():
    # Those of numpy's Philox; a split must be the same in every release.
    assert random_bits(0, 0, 2).tolist() == [213000021201967259, 4455796210202625458]
    assert random_bits(3, 5, 10)[:4].tolist() == random_bits(3, 5, 4).tolist()
    assert random_bits(3, 5, 4).tolist() != random_bits(5, 3, 4).tolist()


def test_refusals(text, corpus, tmp_path, monkeypatch):
    with pytest.raises(MismatchError, match="is not the one that the tokens were made with"):
        TrainingDocuments(corpus, WORD)
    with pytest.raises(UsageError, match="holds tokens"):
        TrainingDocuments(corpus, BPE, options=TextOptions(split="line"))
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            TrainingDocuments(text, BPE, held_out_share=share)
    with pytest.raises(InputError, match=r"must be in 0\.\.543"):
        TrainingDocuments([[5, 600], [6, 7]], BPE)
    monkeypatch.setattr(documents, "MAX_TEXT_BYTES", 1000)
    for source in (text, documents_of("ids")[0]):
        with pytest.raises(InputError, match="is tokenised in memory") as error:
            TrainingDocuments(source, BPE)
        assert "engram corpus build" in error.value.hint


def test_a_damaged_corpus_is_refused(text, tmp_path):
    folder = tmp_path / "corpus"
    build_corpus(text, BPE, folder)
    path = folder / "documents-00000.npy"
    bounds = np.load(path)
    bounds[[3, 4]] = bounds[[4, 3]]
    np.save(path, bounds)
    with pytest.raises(CorruptFileError, match="do not rise"):
        TrainingDocuments(folder, BPE)
    with pytest.raises(CorruptFileError):
        TrainingDocuments(folder, BPE, check_digests=True)


def test_the_vocabulary_decides_the_dtype(text):
    assert load_tokenizer(str(BPE)).vocab_size < 2**16
    found = TrainingDocuments(text, BPE)
    assert found.tokens(0).dtype == np.uint16
    assert found.total_bytes == 2 * found.n_tokens


@pytest.mark.real
def test_entries_of_a_dictionary_are_documents(real_assets):
    text = real_assets / "foldoc.txt"
    if not text.exists():
        pytest.skip("Debian's packages could not be had")
    tokenizer = real_assets / "smollm2-135m"
    found = TrainingDocuments(text, tokenizer)
    entries = text.read_text().removesuffix("\n\n").split("\n\n")
    assert len(found) == len(entries) > 10_000
    decoder = load_tokenizer(str(tokenizer)).tokenizer
    for number in (0, 7000, len(found) - 1):
        assert decoder.decode(found.tokens(number).tolist()) == entries[number] + "\n\n"
    assert 0.04 < len(found.held_out) / len(found) < 0.06

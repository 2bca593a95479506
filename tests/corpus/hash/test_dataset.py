"""HashedDataset: every token once, ids as stored, shared by workers, resumed where it stopped."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from engram import Addresses, HashedDataset
from engram.addressing.reference import hash_ids
from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.hash import windows
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_text import hash_text
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.errors import (
    CorruptFileError,
    InputError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from support.hashed import CONFIG, TEXT, T, documents_of
from support.paths import BPE, WORD


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of several shards, its tokens, where documents start, and its ids."""
    folder = tmp_path_factory.mktemp("stored") / "out"
    text = folder.with_name("text.txt")
    text.write_text(TEXT)
    hash_text(text, CONFIG, output=folder, options=HashOptions(shard_tokens=777))
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    assert len(shards) > 3
    tokens, ids = (
        np.concatenate([np.load(folder / shard[f"{kind}_file"]) for shard in shards])
        for kind in ("tokens", "ids")
    )
    return folder, tokens, ids


def flat(found, key):
    return np.concatenate([window[key].numpy() for window in found])


def test_windows_of_a_folder_are_what_is_stored(stored):
    folder, tokens, ids = stored
    dataset = HashedDataset(folder, CONFIG, window_tokens=T)
    assert isinstance(dataset, IterableDataset)
    assert isinstance(dataset.addresses, Addresses)
    found = list(dataset)
    assert len(found) == dataset.n_windows == len(tokens) // T
    size = len(found) * T
    assert {window["input_ids"].dtype for window in found} == {torch.int64}
    assert found[0]["hash_ids"].shape == (T, 2, 6)
    np.testing.assert_array_equal(flat(found, "input_ids"), tokens[:size])
    np.testing.assert_array_equal(flat(found, "hash_ids"), ids[:size])
    # Documents end with token 1, and places start anew in each window.
    expected = []
    for t in range(size):
        anew = t % T == 0 or tokens[t - 1] == 1
        expected.append(0 if anew else expected[-1] + 1)
    assert flat(found, "position_ids").tolist() == expected
    again = list(dataset)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(found, again, strict=True) for key in a)


def test_a_config_is_named_by_its_path_or_its_template(stored, tmp_path):
    path = tmp_path / "memory.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    expected = HashedDataset(stored[0], CONFIG, window_tokens=T)
    for name in (path, str(path)):
        found = HashedDataset(stored[0], name, window_tokens=T)
        assert found.addresses.fingerprint == expected.addresses.fingerprint
        assert torch.equal(next(iter(found))["hash_ids"], next(iter(expected))["hash_ids"])
    with pytest.raises(MismatchError, match="50,?257"):  # the template was read: it is GPT-2's
        HashedDataset([[5]], "tiny", window_tokens=1, tokenizer=CONFIG.tokenizer)
    with pytest.raises(MissingFileError, match="neither a template nor a file"):
        HashedDataset(stored[0], "tinny", window_tokens=T)


def test_a_built_corpus_is_read_like_stored_ids(stored, tmp_path):
    _, tokens, ids = stored
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    sources, _ = find_sources(path)
    build_corpus(
        sources, load_tokenizer(str(BPE)), tmp_path / "corpus", TextOptions(shard_tokens=500)
    )
    found = list(HashedDataset(tmp_path / "corpus", CONFIG, window_tokens=T))
    assert len(found) == len(tokens) // T
    np.testing.assert_array_equal(flat(found, "input_ids"), tokens[: len(found) * T])
    np.testing.assert_array_equal(flat(found, "hash_ids"), ids[: len(found) * T])


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_ranks_share_a_folder(stored, workers, world_size):
    folder, tokens, ids = stored
    found = []
    for rank in range(world_size):
        dataset = HashedDataset(folder, CONFIG, window_tokens=T, rank=rank, world_size=world_size)
        for window in DataLoader(dataset, batch_size=None, num_workers=workers):
            found.append((window["input_ids"].tolist(), window["hash_ids"].tolist()))
    expected = [
        (tokens[at : at + T].tolist(), ids[at : at + T].tolist())
        for at in range(0, len(tokens) - T + 1, T)
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("kind", ["texts", "ids"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_is_shared_by_documents(monkeypatch, kind, workers):
    monkeypatch.setattr(windows, "_DOCUMENTS_AT_ONCE", 7)
    documents, encoded = documents_of(kind)
    dataset = HashedDataset(documents, CONFIG, window_tokens=T, add_eos=True)
    assert dataset.n_windows is None
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    found = sorted((window["input_ids"].tolist(), window["hash_ids"].tolist()) for window in loader)
    expected = []
    for share in range(max(workers, 1)):
        mine = encoded[share :: max(workers, 1)]
        tokens = [token for document in mine for token in document]
        ids = np.concatenate([hash_ids(dataset.addresses, np.array([d]))[0][0] for d in mine])
        expected += [
            (tokens[at : at + T], ids[at : at + T].tolist())
            for at in range(0, len(tokens) - T + 1, T)
        ]
    assert found == sorted(expected)


def test_a_text_is_cut_as_its_folder_of_tokens(stored, tmp_path, monkeypatch):
    _, tokens, ids = stored
    monkeypatch.setattr("engram.corpus.text.readers._BLOCK_BYTES", 700)
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    found = list(HashedDataset(path, CONFIG, window_tokens=T, add_eos=True))
    np.testing.assert_array_equal(flat(found, "input_ids"), tokens[: len(found) * T])
    np.testing.assert_array_equal(flat(found, "hash_ids"), ids[: len(found) * T])
    assert len(found) == len(tokens) // T


@pytest.mark.parametrize("source", ["folder", "text", "documents"])
def test_resumed_at_every_place(stored, tmp_path, monkeypatch, source):
    monkeypatch.setattr("engram.corpus.text.readers._BLOCK_BYTES", 700)
    monkeypatch.setattr(windows, "_DOCUMENTS_AT_ONCE", 7)
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    place = {"folder": stored[0], "text": path, "documents": documents_of("texts")[0]}[source]

    def make():
        # Windows longer than most pieces, and longer than what n-grams look back.
        return HashedDataset(place, CONFIG, window_tokens=170, rank=1, world_size=2)

    whole = list(make())
    assert len(whole) > 4
    for stop in range(len(whole) + 1):
        first = make()
        stream = iter(first)
        for _ in range(stop):
            next(stream)
        state = json.loads(json.dumps(first.state_dict()))
        second = pickle.loads(pickle.dumps(make()))
        second.load_state_dict(state)
        assert second.state_dict() == state
        rest = list(second)
        assert len(rest) == len(whole) - stop
        for window, expected in zip(rest, whole[stop:], strict=True):
            assert all(torch.equal(window[key], expected[key]) for key in expected)
    # The epoch after the one that was resumed is whole.
    assert len(list(second)) == len(whole)


def test_a_place_of_another_share_is_refused(stored):
    first = HashedDataset(stored[0], CONFIG, window_tokens=T)
    next(iter(first))
    second = HashedDataset(stored[0], CONFIG, window_tokens=T, rank=1, world_size=2)
    second.load_state_dict(first.state_dict())
    with pytest.raises(MismatchError, match="share 0 of 1 in windows of 50"):
        next(iter(second))
    second.load_state_dict({"step": 3})  # that of something else
    with pytest.raises(MismatchError, match="share None of None"):
        next(iter(second))


def test_what_cannot_be_read_is_refused(stored, tmp_path):
    with pytest.raises(UsageError, match="window_tokens must be >= 1, got 0"):
        HashedDataset(stored[0], CONFIG, window_tokens=0)
    with pytest.raises(UsageError, match=r"rank must be >= 0 and below world_size \(2\), got 2"):
        HashedDataset(stored[0], CONFIG, window_tokens=T, rank=2, world_size=2)
    with pytest.raises(InputError, match="less than one window"):
        HashedDataset(stored[0], CONFIG, window_tokens=10**6)
    with pytest.raises(InputError, match=r"must be in 0\.\.543, got 5\.\.544"):
        list(HashedDataset([[5, 544]], CONFIG, window_tokens=1))
    word = replace(CONFIG, tokenizer=str(WORD), engram_vocab_size=23)
    with pytest.raises(InputError, match="no end-of-text token"):
        HashedDataset([[5]], word, window_tokens=1, add_eos=True)
    with pytest.raises(InputError, match="A document must be"):
        list(HashedDataset([[5], "text"], CONFIG, window_tokens=1))
    folder = tmp_path / "broken"
    shutil.copytree(stored[0], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    other = {**manifest, "tokenizer": {**manifest["tokenizer"], "sha256": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps(other))
    with pytest.raises(MismatchError, match="not the one that the tokens were made with"):
        HashedDataset(folder, CONFIG, window_tokens=T)
    manifest["shards"][1]["tokens"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptFileError, match="the manifest says"):
        HashedDataset(folder, CONFIG, window_tokens=T)
    (folder / manifest["shards"][0]["tokens_file"]).write_bytes(b"\x93NUMPY torn")
    with pytest.raises(CorruptFileError, match="is truncated"):
        HashedDataset(folder, CONFIG, window_tokens=T)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="shards is missing"):
        HashedDataset(folder, CONFIG, window_tokens=T)

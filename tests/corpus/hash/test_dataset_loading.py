"""HashedDataset in data loaders: resumed in the middle, shared by ranks, tokenised by gigatoken."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from engram import HashedDataset
from engram.addressing.reference import hash_ids
from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.hash import windows
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens import fast_tokenise
from engram.corpus.tokens.fast_tokenise import FastEncoder
from support.hashed import CONFIG, TEXT, T, documents_of
from support.paths import BPE

pytestmark = [
    # torchdata calls what torch 2.13 calls deprecated.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    # Pinning is asked for here whether or not there is a GPU to pin for.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator"),
]


# Without "ex", an added token of this tokenizer, whose texts gigatoken is not trusted with.
PLAIN = TEXT.replace("Alexander", "Philip")


@pytest.fixture
def source(request, tmp_path, monkeypatch):
    """A folder of tokens, a text, or documents."""
    monkeypatch.setattr("engram.corpus.text.readers._BLOCK_BYTES", 700)
    path = tmp_path / "text.txt"
    path.write_text(PLAIN)
    if request.param == "folder":
        folder, (sources, _) = tmp_path / "corpus", find_sources(path)
        build_corpus(sources, load_tokenizer(str(BPE)), folder, TextOptions(shard_tokens=900))
        return folder
    return path if request.param == "text" else PLAIN.split("\n\n")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, None), (0, 3), (2, 3)])
@pytest.mark.parametrize("source", ["folder", "text", "documents"], indirect=True)
def test_stateful_loaders_resume_where_they_were_saved(source, workers, batch_size):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader(snapshot_steps):
        return stateful.StatefulDataLoader(
            HashedDataset(source, CONFIG, window_tokens=T),
            batch_size=batch_size,
            num_workers=workers,
            pin_memory=True,
            snapshot_every_n_steps=snapshot_steps,
        )

    whole = list(loader(1))
    assert len(whole) > 7
    for stop, snapshot_steps in [(1, 1), (5, 4), (len(whole), 1)]:
        first = loader(snapshot_steps)
        stream = iter(first)
        for _ in range(stop):
            next(stream)
        state = pickle.loads(pickle.dumps(first.state_dict()))
        second = loader(snapshot_steps)
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == len(whole) - stop
        assert all(map(equal, rest, whole[stop:]))
        # The epoch after it is whole.
        again = list(second)
        assert len(again) == len(whole)
        assert all(map(equal, again, whole))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_documents(workers):
    documents, encoded = documents_of("ids")
    found = []
    for rank in range(3):
        dataset = HashedDataset(
            documents, CONFIG, window_tokens=T, add_eos=True, rank=rank, world_size=3
        )
        for window in DataLoader(dataset, batch_size=None, num_workers=workers):
            found.append((window["input_ids"].tolist(), window["hash_ids"].tolist()))
    expected, shares = [], 3 * max(workers, 1)
    for share in range(shares):
        mine = encoded[share::shares]
        tokens = [token for document in mine for token in document]
        ids = np.concatenate([hash_ids(dataset.addresses, np.array([d]))[0][0] for d in mine])
        expected += [
            (tokens[at : at + T], ids[at : at + T].tolist())
            for at in range(0, len(tokens) - T + 1, T)
        ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["text", "documents"], indirect=True)
def test_gigatoken_gives_the_same_windows(source, workers, monkeypatch, tmp_path):
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(windows, "_DOCUMENTS_AT_ONCE", 7)
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)

    def read():
        dataset = HashedDataset(source, CONFIG, window_tokens=T, add_eos=True)
        return list(DataLoader(dataset, batch_size=None, num_workers=workers))

    plain = read()
    encode, log = FastEncoder._encode_fast, tmp_path / "log"

    def logged(self, texts):
        if "Philip" in texts[0]:
            with log.open("a") as file:
                file.write(f"{self._parallel}\n")
        return encode(self, texts)

    monkeypatch.setattr(FastEncoder, "_encode_fast", logged)
    assert all(map(equal, read(), plain))
    assert not log.exists()
    monkeypatch.setattr(windows, "WORTH_BYTES", 500)
    fast = read()
    assert len(fast) == len(plain)
    assert all(map(equal, fast, plain))
    assert set(log.read_text().split()) == {str(not workers)}


def test_a_difference_is_told_once(monkeypatch):
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(windows, "_DOCUMENTS_AT_ONCE", 7)
    documents = PLAIN.split("\n\n")
    plain = list(HashedDataset(documents, CONFIG, window_tokens=T, add_eos=True))
    monkeypatch.setattr(windows, "WORTH_BYTES", 1)
    encode = FastEncoder._encode_fast

    def broken(self, texts):
        tokens, lengths = encode(self, texts)
        return (tokens + any("Paragraph 30 " in text for text in texts)) % 544, lengths

    monkeypatch.setattr(FastEncoder, "_encode_fast", broken)
    with pytest.warns(UserWarning, match="gave other ids than tokenizers") as told:
        found = list(HashedDataset(documents, CONFIG, window_tokens=T, add_eos=True))
    assert len(told) == 1
    assert len(found) == len(plain)
    assert all(map(equal, found, plain))


def test_threads_are_for_processes_of_their_own(monkeypatch):
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    assert fast_tokenise._may_use_threads()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    assert not fast_tokenise._may_use_threads()
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    assert fast_tokenise._may_use_threads()
    # What a process that was forked from this one sees.
    monkeypatch.setattr(fast_tokenise, "_PROCESS", -1)
    assert not fast_tokenise._may_use_threads()


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("source", ["folder"], indirect=True)
def test_a_worker_that_is_stopped_at_once_ends_well(source, context):
    """It is loading compiled code then, in a thread that must not be torn off."""
    dataset = HashedDataset(source, CONFIG, window_tokens=T)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context)
    stream = iter(loader)
    next(stream)
    (worker,) = multiprocessing.active_children()
    del stream
    worker.join(30)
    assert worker.exitcode == 0

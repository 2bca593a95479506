"""Rows for training: every token once an epoch, by number, and documents that stay apart."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import engram
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError, UsageError
from engram.training.documents import TrainingDocuments
from engram.training.packed_windows import PackedWindows, SeparateDocuments, packs_documents
from support import tiny
from support.hashed import TEXT
from support.near import assert_near
from support.paths import BPE

T = 20


@pytest.fixture(scope="module", params=["memory", "corpus"])
def documents(request, tmp_path_factory):
    """Documents of 11 to 40 tokens, in memory or in shards of a few documents."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(TEXT)
    if request.param == "memory":
        return TrainingDocuments(text, BPE, seed=4)
    folder = text.with_name("corpus")
    build_corpus(text, BPE, folder, options=TextOptions(shard_tokens=300))
    return TrainingDocuments(folder, BPE, seed=4)


def rows_of(windows, epoch):
    first = epoch * windows.rows_per_epoch
    return [windows.row(first + number) for number in range(windows.rows_per_epoch)]


def pieces_of(windows, epoch):
    """Cut an epoch's windows where positions restart: the tokens of each piece."""
    for row in rows_of(windows, epoch):
        cuts = [*(row["position_ids"] == 0).nonzero().flatten().tolist(), T]
        for begin, end in pairwise(cuts):
            assert row["position_ids"][begin:end].tolist() == list(range(end - begin))
            yield row["input_ids"][begin:end].tolist()


def test_windows_hold_the_training_documents_one_after_the_other(documents):
    windows = PackedWindows(documents, T, seed=7)
    orders = []
    for epoch in (0, 1):
        stream = list(chain(*pieces_of(windows, epoch)))
        assert len(stream) == windows.rows_per_epoch * T
        left = {number: documents.tokens(number).tolist() for number in documents.training}
        assert 0 <= sum(map(len, left.values())) - len(stream) < T
        # Follow the stream: every document is in it once, as a whole but for the last.
        place, order = 0, []
        while place < len(stream):
            number = next(
                number
                for number, tokens in left.items()
                if stream[place : place + len(tokens)] == tokens[: len(stream) - place]
            )
            place += len(left.pop(number))
            order.append(number)
        orders.append(order)
    assert orders[0] != orders[1] != sorted(orders[1])


def test_a_row_depends_on_nothing_but_its_number(documents):
    windows = PackedWindows(documents, T, seed=7)
    count = windows.rows_per_epoch
    assert count == len(windows) > 50
    again = PackedWindows(documents, T, seed=7)
    for number in (3 * count + 5, 2, 3 * count + 5, count - 1, count):
        for name, values in windows.row(number).items():
            assert values.dtype == torch.int64
            assert values.shape == (T,)
            assert values.equal(again.row(number)[name])
    batch = windows.batch(count - 1, 3)
    assert batch["labels"].shape == (3, T)
    assert batch["input_ids"][1].equal(again.row(count)["input_ids"])
    other = PackedWindows(documents, T, seed=8)
    assert not other.row(0)["input_ids"].equal(windows.row(0)["input_ids"])


def test_labels_leave_out_what_nothing_predicts(documents):
    for row in rows_of(PackedWindows(documents, T), 0):
        firsts = row["position_ids"] == 0
        assert firsts[0]
        assert (row["labels"] == -100).equal(firsts)
        assert row["labels"][~firsts].equal(row["input_ids"][~firsts])


def test_separate_documents_are_cut_and_padded(documents):
    rows = rows_of(SeparateDocuments(documents, T, seed=7), 0)
    pieces = []
    for row in rows:
        assert set(row) == {"input_ids", "attention_mask", "labels"}
        length = int(row["attention_mask"].sum())
        assert length >= 2
        assert row["attention_mask"].tolist() == [1] * length + [0] * (T - length)
        assert row["labels"].tolist() == [-100, *row["input_ids"][1:length], *[-100] * (T - length)]
        pieces.append(tuple(row["input_ids"][:length].tolist()))
    expected = [
        tuple(tokens[begin : begin + T])
        for tokens in (documents.tokens(number).tolist() for number in documents.training)
        for begin in range(0, len(tokens) - 1, T)
    ]
    assert sorted(pieces) == sorted(expected)
    assert any(len(piece) < T for piece in pieces)
    assert pieces != expected


def test_edges_of_separate_documents():
    lengths = [1, 2, 3, 4, 5, 7, 8, 2]
    texts = [[10 + number] * length for number, length in enumerate(lengths)]
    found = TrainingDocuments(
        texts, BPE, options=TextOptions(add_eos=False), held_out_share=1e-9, seed=2
    )
    kept = sorted(
        (int(row["input_ids"][0]) - 10, int(row["attention_mask"].sum()))
        for row in rows_of(SeparateDocuments(found, 3), 1)
    )
    pieces = {2: [2], 3: [3], 4: [3], 5: [3, 2], 7: [3, 3], 8: [3, 3, 2], 1: []}
    expected = [(number, size) for number in found.training for size in pieces[lengths[number]]]
    assert kept == sorted(expected)


def test_too_few_tokens_are_refused():
    found = TrainingDocuments([[5, 6, 7], [8, 9]], BPE, options=TextOptions(add_eos=False))
    with pytest.raises(InputError, match="less than a row of 64"):
        PackedWindows(found, 64)
    assert SeparateDocuments(found, 64).rows_per_epoch == 1
    with pytest.raises(UsageError, match="row_tokens"):
        PackedWindows(found, 1)


@pytest.mark.parametrize("model_type", tiny.FAMILIES)
def test_packed_documents_are_read_as_if_they_were_alone(model_type, documents, tmp_path_factory):
    base, attached = tiny.family_folders(model_type, tmp_path_factory)
    assert packs_documents(AutoModelForCausalLM.from_pretrained(base)) is (
        model_type not in ("bloom", "opt")
    )
    model = tiny.randomise(engram.load(attached)).eval()
    model.config.use_cache = False
    if not packs_documents(model):
        assert model_type in ("bloom", "opt")
        windows = SeparateDocuments(documents, T)
    else:
        windows = PackedWindows(documents, T)
    batch = windows.batch(3, 2)
    with torch.no_grad():
        loss = model(**batch).loss.double()
        logits = model(**{name: batch[name] for name in batch if name != "labels"}).logits
        expected = [[], []]
        for row in range(2):
            first = batch.get("position_ids", torch.arange(T)[None].expand(2, -1))[row] == 0
            cuts = [*first.nonzero().flatten().tolist(), T]
            for begin, end in pairwise(cuts):
                if "attention_mask" in batch:
                    end = int(batch["attention_mask"][row].sum())
                ids = batch["input_ids"][row, begin:end]
                alone = model(input_ids=ids[None]).logits[0]
                assert_near(logits[row, begin:end], alone, 128)
                expected[0].append(alone[:-1])
                expected[1].append(ids[1:])
    reference = cross_entropy(torch.cat(expected[0]).double(), torch.cat(expected[1]))
    assert abs(loss - reference) < 1e-5 * reference


def test_the_probe_leaves_the_mode_and_knows_leaks(tmp_path_factory):
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    for implementation in ("sdpa", "eager"):
        model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=implementation)
        assert packs_documents(model.train())
        assert model.training
        assert packs_documents(model.eval().bfloat16())
        assert not model.training
    # A model that looks across: its positions never reach the attention mask.
    forward = model.forward
    model.forward = lambda position_ids, **kwargs: forward(**kwargs)
    assert not packs_documents(model)
    model.forward = lambda input_ids, use_cache: forward(input_ids)
    assert not packs_documents(model)

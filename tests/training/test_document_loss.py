"""Losses by document equal those of single tokens, and the bootstrap's intervals cover."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.errors import InputError, MismatchError, UsageError
from engram.training import document_loss
from engram.training.document_loss import DocumentLosses, document_losses, paired_difference
from engram.training.token_bytes import byte_counter
from support import tiny
from support.paths import BPE, WORD

CONTEXT = 24


@pytest.fixture(scope="module")
def documents():
    """Documents of no token to several contexts, as arrays and lists."""
    generator = np.random.default_rng(5)
    lengths = [30, 1, 2, 24, 25, 26, 49, 50, 3, 0, 17, 60]
    arrays = [generator.integers(3, tiny.VOCAB, length).astype(np.uint16) for length in lengths]
    return [*arrays[:-1], arrays[-1].tolist()]


def loaded(model_type, tmp_path_factory, dtype=torch.float64):
    _, attached = tiny.family_folders(model_type, tmp_path_factory)
    return tiny.randomise(engram.load(attached)).to(dtype)


class Guesser(torch.nn.Module):
    """Expects the same of every next token: a few of a large vocabulary, and all others alike."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.said = torch.zeros(49_152)
        self.said[:8] = 12

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.said.expand(*input_ids.shape, -1))


def nats_by_token(model, document):
    """Add up the losses one token at a time, each from a call of its own."""
    nats = count = 0
    for place in range(1, len(document)):
        begin = place // CONTEXT * CONTEXT
        if place > begin:
            before = torch.tensor([[int(token) for token in document[begin:place]]])
            with torch.no_grad():
                logits = model(input_ids=before, use_cache=False).logits[0, -1]
            nats -= float(logits.double().log_softmax(-1)[int(document[place])])
            count += 1
    return nats, count


def test_losses_of_a_large_vocabulary_lose_nothing_in_float32():
    model, document = Guesser(), np.arange(3, 40)
    losses = document_losses(model, [document], str(BPE), context=CONTEXT)
    # cross_entropy is wrong by 1e-5 of it here.
    logs = model.said.double().log_softmax(-1)
    counted = np.delete(document, [0, CONTEXT])
    expected = -float(logs[torch.from_numpy(counted)].mean())
    assert losses.nats_per_token == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "mixtral"])
def test_losses_equal_those_of_single_tokens(model_type, documents, tmp_path_factory, monkeypatch):
    # torch multiplies the matrices of experts in at most 32 bits.
    dtype = torch.float32 if model_type == "mixtral" else torch.float64
    model = loaded(model_type, tmp_path_factory, dtype).eval()
    expected = [nats_by_token(model, document) for document in documents]
    assert [count for _, count in expected][:6] == [28, 0, 1, 23, 23, 24]
    # With logits in small chunks, too.
    for batch_tokens, chunk in ((1, 2**24), (60, 5 * tiny.VOCAB), (10**6, 1)):
        monkeypatch.setattr(document_loss, "_CHUNK_LOGITS", chunk)
        seen = []
        losses = document_losses(
            model,
            documents,
            str(BPE),
            context=CONTEXT,
            batch_tokens=batch_tokens,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
        )
        assert losses.tokens.tolist() == [count for _, count in expected]
        np.testing.assert_allclose(losses.nats, [nats for nats, _ in expected], rtol=1e-6)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert seen[-1][0] == seen[-1][1]


def test_float32_and_autocast_are_near(documents, tmp_path_factory):
    exact = document_losses(loaded("llama", tmp_path_factory), documents, BPE, context=CONTEXT)
    single = loaded("llama", tmp_path_factory, torch.float32)
    losses = document_losses(single, documents, BPE, context=CONTEXT)
    np.testing.assert_allclose(losses.nats, exact.nats, rtol=1e-5)
    rough = document_losses(single, documents, BPE, context=CONTEXT, dtype=torch.bfloat16)
    assert rough.nats.tolist() != losses.nats.tolist()
    np.testing.assert_allclose(rough.nats, exact.nats, rtol=0.1)


def test_every_module_keeps_its_mode(documents, tmp_path_factory):
    model = loaded("gpt2", tmp_path_factory, torch.float32).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    layer = model.get_decoder().h[0]
    layer.eval()
    modes = [module.training for module in model.modules()]
    losses = document_losses(model, documents, BPE, context=CONTEXT)
    assert [module.training for module in model.modules()] == modes
    assert (
        losses.nats.tolist()
        == document_losses(model.eval(), documents, BPE, context=CONTEXT).nats.tolist()
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_number_for_all_documents_together():
    losses = DocumentLosses(
        np.array([2.0, 0.0, 4.0]), np.array([1, 0, 3]), np.array([4, 0, 8]), True
    )
    assert losses.nats_per_token == 1.5
    assert losses.perplexity == math.exp(1.5)
    assert losses.bits_per_byte == pytest.approx(6 / math.log(2) / 12)


@pytest.mark.parametrize("folder", [BPE, WORD])
def test_bytes_are_those_of_the_text(folder):
    file = load_tokenizer(str(folder))
    count, is_exact = byte_counter(file)
    assert is_exact is (folder == BPE)
    texts = ["the Great", "Alexander the Great, Princess of Wales"]
    texts += ["größer — 字節 🙂🙂 \x00", " \n\n  x\t"] if is_exact else []
    for text in texts:
        ids = np.array(file.tokenizer.encode(text, add_special_tokens=False).ids)
        first = len(file.tokenizer.decode(ids[:1].tolist()).encode())
        if folder == WORD:
            text = file.tokenizer.decode(ids.tolist())
        elif not text.isascii():
            ids, first = np.append(0, ids), 0  # a special token, of no bytes
        assert count(ids) == len(text.encode()) - first
        special = next(
            it for it, token in file.tokenizer.get_added_tokens_decoder().items() if token.special
        )
        assert count(np.append(ids, special)) == count(ids)


def test_bytes_of_losses(tmp_path_factory):
    model = loaded("llama", tmp_path_factory)
    encoder = load_tokenizer(str(BPE)).tokenizer
    text = "Größe of Alexander the Great " * 8
    ids = encoder.encode(text, add_special_tokens=False).ids
    losses = document_losses(model, [ids], BPE, context=CONTEXT)
    vocabulary = {number: token for token, number in encoder.get_vocab().items()}
    left_out = sum(len(vocabulary[number]) for number in ids[::CONTEXT])
    assert len(ids) > 2 * CONTEXT
    assert losses.bytes.tolist() == [len(text.encode()) - left_out]
    assert losses.bytes_are_exact


def of(nats, tokens):
    return DocumentLosses(nats, tokens, tokens, True)


def measured(generator, count, shift=0.1):
    """Two models' losses of documents whose lengths and differences have heavy tails."""
    tokens = np.maximum(1, generator.lognormal(4, 1, count)).astype(np.int64)
    hard = generator.normal(3, 1, count) * tokens
    differences = (shift + 0.3 * generator.standard_t(4, count)) * tokens
    return of(hard + differences, tokens), of(hard, tokens)


def test_intervals_cover_the_true_difference_as_often_as_they_say():
    generator = np.random.default_rng(0)
    truth, hits, tries = 0.1, 0, 500
    for seed in range(tries):
        found = paired_difference(*measured(generator, 400), resamples=250, seed=seed)
        assert found.low < found.nats < found.high
        hits += found.low <= truth <= found.high
    assert 0.93 * tries <= hits <= 0.97 * tries


def test_an_interval_equals_that_of_a_slow_loop():
    a, b = measured(np.random.default_rng(3), 50)
    found = paired_difference(a, b, resamples=4000)
    assert found.nats == pytest.approx((a.nats.sum() - b.nats.sum()) / a.tokens.sum())
    draw, values = random.Random(1), []
    for _ in range(4000):
        drawn = draw.choices(range(50), k=50)
        up = sum(float(a.nats[index]) for index in drawn) - sum(b.nats[index] for index in drawn)
        values.append(up / sum(int(a.tokens[index]) for index in drawn))
    values.sort()
    width = values[3900] - values[100]
    assert abs(found.low - values[100]) < 0.05 * width
    assert abs(found.high - values[3900]) < 0.05 * width
    again = paired_difference(a, b, resamples=4000)
    assert (found.low, found.high) == (again.low, again.high)
    other = paired_difference(a, b, resamples=4000, seed=1)
    assert found.low != other.low
    narrow = paired_difference(a, b, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    flipped = paired_difference(b, a, resamples=4000)
    assert (flipped.low, flipped.high) == pytest.approx((-found.high, -found.low))


def test_refusals(tmp_path_factory):
    with pytest.raises(InputError, match="None of 2 documents has two tokens"):
        document_losses(None, [[5], []], BPE, context=CONTEXT)
    with pytest.raises(UsageError, match="context"):
        document_losses(None, [[5, 6]], BPE, context=1)
    a, b = measured(np.random.default_rng(0), 20)
    with pytest.raises(MismatchError, match="not of the same documents"):
        paired_difference(a, of(b.nats[1:], b.tokens[1:]))
    for wrong in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(UsageError, match="resamples must be at least 1"):
            paired_difference(a, b, **wrong)

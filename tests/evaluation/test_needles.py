"""Facts in a long context: a model that copies finds them, a random one does not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

import engram
from engram.addressing.tokenizer_files import describe_tokenizer, load_tokenizer
from engram.errors import InputError, UsageError
from engram.evaluation import needles
from engram.evaluation.needles import Needles, ask, hide_facts
from support import tiny
from support.paths import BPE, WORD

CONTEXT = 300


class Copier(torch.nn.Module):
    """Predicts the token that followed the longest earlier end that is like the current one."""

    device = torch.device("cpu")

    def __init__(self, reach=10**6):
        super().__init__()
        self.reach = reach

    def forward(self, input_ids, use_cache):
        ids = input_ids[0].tolist()
        logits = torch.zeros(1, len(ids), tiny.VOCAB)
        for place in range(len(ids)):
            best, longest = ids[place], 0
            for at in range(max(0, place - self.reach), place):
                length = 0
                while length <= at and ids[at - length] == ids[place - length]:
                    length += 1
                if length > longest:
                    best, longest = ids[at + 1], length
            logits[0, place, best] = 20
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def text():
    numbers = np.random.default_rng(0)
    return [np.append(numbers.integers(60, 500, size), 1) for size in (100, 300, 50)]


@pytest.fixture(scope="module")
def file():
    return load_tokenizer(str(BPE))


def test_facts_lie_at_even_depths_of_the_users_own_text(text, file):
    trials = hide_facts(text, file, 4, CONTEXT, seed=1)
    filler = np.concatenate([it[:-1] for it in text]).tolist()
    decode, begins = file.tokenizer.decode, []
    for trial in trials:
        ids = trial.ids.tolist()
        said, places = decode(ids), []
        assert len(ids) == CONTEXT
        assert trial.depths == [0.125, 0.375, 0.625, 0.875]
        for answer in trial.answers:
            value = decode(ids[answer])
            assert value.strip().isdigit()
            key = said.rpartition(f" is {value.strip()}.")[0].rpartition("code of ")[2]
            sentence = f"\nThe code of {key} is {value.strip()}."
            assert said.count(sentence) == 2  # where it is hidden, and where it is asked for
            places.append(said.index(sentence))
        assert places == sorted(places)
        begins.append(next(at for at in range(300) if filler[at : at + 6] == ids[:6]))
    assert begins[0] == 0
    assert len(begins) > 1
    assert begins == sorted(set(begins))


def test_a_model_that_copies_finds_every_fact(text, file):
    trials = hide_facts(text, file, 3, CONTEXT, seed=2)
    items = [it for trial in trials for it in ask(Copier(), "on", trial)]
    found = Needles.of(trials, items)
    (nats, exact) = found.runs()["on"]
    assert exact == 1
    assert nats < 1e-4
    assert found.count == 3
    assert found.context == CONTEXT
    assert len(items) == 3 * len(trials)


def test_a_model_that_looks_back_a_little_finds_the_last_facts(text, file):
    (trial, *_) = hide_facts(text, file, 4, 500, seed=2)
    near = ask(Copier(reach=len(trial.ids) // 2), "on", trial)
    assert not near[0].exact
    assert near[-1].exact
    assert near[0].nats > near[-1].nats + 1


def test_a_random_model_finds_none(text, file, tmp_path_factory):
    model = tiny.randomise(engram.load(tiny.family_folders("llama", tmp_path_factory)[1]))
    trials = hide_facts(text, file, 2, 120, seed=0)
    items = [it for trial in trials for it in ask(model, "on", trial)]
    assert not any(it.exact for it in items)
    assert np.mean([it.nats for it in items]) > 4
    # Each value token given those before it, in one pass as alone.
    trial, places = trials[0], trials[0].answers[0]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor(trial.ids)[None]).logits[0].double().log_softmax(-1)
    expected = [-float(logs[at - 1, trial.ids[at]]) for at in range(places.start, places.stop)]
    assert items[0].nats == pytest.approx(np.mean(expected), rel=1e-5)


def test_equal_seeds_hide_equal_facts(text, file):
    one, same, other = (hide_facts(text, file, 2, 120, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].ids, other[0].ids)


def test_a_space_that_is_a_token_is_no_part_of_the_value(text):
    encoder = Tokenizer(models.BPE({chr(at): at for at in range(10, 127)}, []))
    for trial in hide_facts(text, describe_tokenizer(encoder), 2, CONTEXT, seed=3):
        for answer in trial.answers:
            value = "".join(map(chr, trial.ids[answer]))
            assert len(value) == 5
            assert value.isdigit()
            assert chr(trial.ids[answer.start - 1]) == " "


def test_logits_of_the_questions_alone_are_asked_for(text, file, tmp_path_factory, monkeypatch):
    model = tiny.randomise(engram.load(tiny.family_folders("llama", tmp_path_factory)[1]))
    (trial, *_) = hide_facts(text, file, 2, 120, seed=0)
    asked, kept = ask(model, "on", trial), []
    forward = model.forward

    def all_logits(input_ids, use_cache):
        return forward(input_ids=input_ids, use_cache=use_cache)

    model.lm_head.register_forward_hook(lambda *call: kept.append(call[-1].shape[1]))
    monkeypatch.setattr(model, "forward", all_logits)
    every = ask(model, "on", trial)
    monkeypatch.undo()
    assert ask(model, "on", trial) == asked
    assert [it.nats for it in every] == pytest.approx([it.nats for it in asked], rel=1e-5)
    assert kept == [120, 121 - min(it.start for it in trial.answers)]


def test_an_answer_that_is_not_a_number_is_an_error(text, file):
    class Broken(Copier):
        def forward(self, input_ids, use_cache):
            return SimpleNamespace(logits=super().forward(input_ids, use_cache).logits * torch.nan)

    (trial, *_) = hide_facts(text, file, 1, 100, seed=0)
    with pytest.raises(InputError, match="not a finite number in the run base"):
        ask(Broken(), "base", trial)


def test_more_facts_than_a_context_holds_are_not_made(text, file, monkeypatch):
    monkeypatch.setattr(needles, "_facts", None)
    for count in (100, 10**4, 90_000):
        with pytest.raises(UsageError, match=f"{count:,} needles .* of a context of 300"):
            hide_facts(text, file, count, CONTEXT, seed=0)
    for count in (10**5, 300_000, 10**6):
        with pytest.raises(UsageError, match=f"values for 90,000 needles, got {count:,}"):
            hide_facts(text, file, count, 10**8, seed=0)


def test_refusals(text, file):
    with pytest.raises(UsageError, match="tokens of a context of 60"):
        hide_facts(text, file, 4, 60, seed=0)
    with pytest.raises(InputError, match="too few to hide 4 needles"):
        hide_facts([np.array([60, 61])], file, 4, 400, seed=0)
    with pytest.raises(InputError, match="cannot write needles"):
        hide_facts(text, load_tokenizer(str(WORD)), 2, CONTEXT, seed=0)
    # A text that is shorter than the context makes it shorter.
    (short,) = hide_facts([np.arange(60, 90)], file, 2, CONTEXT, seed=0)
    assert 30 < len(short.ids) < CONTEXT

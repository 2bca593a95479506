"""`LayerWatch` and `Lens`: states of every layer, and what the model itself makes of them."""

from __future__ import annotations

import pytest
import torch

import engram
from engram.errors import LayoutError
from engram.evaluation import memory_off
from engram.evaluation.layer_states import LayerWatch
from engram.evaluation.lens import Lens
from engram.hf.unwired import base_of
from support.near import assert_near
from support.tiny import FAMILIES, family_folders, randomise

SHAPE = (2, 24)


def ids_of():
    return torch.randint(3, 500, SHAPE, generator=torch.Generator().manual_seed(5))


def run(model):
    """States of every layer, and the logits of the same pass."""
    with LayerWatch(model) as watch, torch.no_grad():
        logits = model(input_ids=ids_of(), use_cache=False).logits
    return watch.take(SHAPE), logits


def flat(states):
    return [state.flatten(0, 1) for state in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_of_the_last_layer_is_the_model(family, tmp_path_factory):
    model = randomise(engram.load(family_folders(family, tmp_path_factory)[1]))
    states, logits = run(model)
    found = Lens(model).logits(states[-1].flatten(0, 1)).view_as(logits)
    assert_near(found, logits)
    assert not torch.allclose(Lens(model).logits(states[0].flatten(0, 1)).view_as(logits), logits)
    assert torch.equal(run(model)[1], logits)  # and the model is as it was
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_memory_that_is_off_leaves_the_states_of_the_base(family, tmp_path_factory):
    model = randomise(engram.load(family_folders(family, tmp_path_factory)[1]))
    with memory_off(model):
        off, _ = run(model)
    base, _ = run(base_of(model))
    on, _ = run(model)
    assert all(torch.equal(one, other) for one, other in zip(off, base, strict=True))
    assert torch.equal(on[0], base[0])  # the memory is read from layer 1 on
    assert not any(torch.allclose(one, other) for one, other in zip(on[1:], base[1:], strict=True))
    assert [tuple(it.shape[:2]) for it in base] == [SHAPE] * 3
    assert base[0].ndim == (4 if family == "deepseek_v4" else 3)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_divergences_and_losses_are_those_of_a_lens_written_by_hand(
    family, tmp_path_factory, monkeypatch
):
    if family not in FAMILIES:
        pytest.skip(f"{family} is not among the families of this run")
    model = randomise(engram.load(family_folders(family, tmp_path_factory)[1]))
    states = flat(run(model)[0])
    cap = getattr(model.config, "final_logit_softcapping", None)

    def predicted(state):
        logits = model.lm_head(model.model.norm(state))
        return (logits if cap is None else cap * torch.tanh(logits / cap)).double().softmax(-1)

    with torch.no_grad():
        last = predicted(states[-1])
        expected = [(last * (last / predicted(it)).log()).sum(-1) for it in states]
    monkeypatch.setattr("engram.evaluation.lens._CHUNK_LOGITS", 5 * 544)  # 48 tokens, 5 at a time
    following = torch.arange(48) * 7
    divergences, losses = Lens(model).read(states, following)
    assert divergences.shape == losses.shape == (3, 48)
    torch.testing.assert_close(divergences, torch.stack(expected), rtol=1e-3, atol=1e-6)
    assert divergences[:2].mean() > 1e-3
    assert not divergences[2].any()
    with torch.no_grad():
        nats = [-predicted(it).log()[torch.arange(48), following] for it in states]
    torch.testing.assert_close(losses, torch.stack(nats), rtol=1e-5, atol=1e-6)


def test_no_token_has_no_reading(tmp_path_factory):
    model = randomise(engram.load(family_folders("llama", tmp_path_factory)[1]))
    states = [it[:0] for it in flat(run(model)[0])]
    divergences, losses = Lens(model).read(states, torch.arange(0))
    assert divergences.shape == losses.shape == (3, 0)


def test_states_of_each_pass_are_taken_once(tmp_path_factory):
    model = base_of(engram.load(family_folders("llama", tmp_path_factory)[1]))
    with LayerWatch(model) as watch, torch.no_grad():
        model(input_ids=ids_of(), use_cache=False)
        watch.take(SHAPE)
        with pytest.raises(LayoutError, match="Layer 0 of LlamaForCausalLM returned no state"):
            watch.take(SHAPE)
        model(input_ids=ids_of(), use_cache=False)
        with pytest.raises(LayoutError, match="returned no state by sequence and token"):
            watch.take((24, 2))
    with torch.no_grad():
        model(input_ids=ids_of(), use_cache=False)
    with pytest.raises(LayoutError):
        watch.take(SHAPE)

"""Cached, chunked, batched and cropped runs equal the full one, whatever the weights."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache, StaticCache

import engram
from engram.errors import InputError, MismatchError
from engram.hf.calls import _read
from engram.hf.state import MemoryState
from support import tiny
from support.near import assert_near

LENGTH = 23


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request, tmp_path_factory):
    attached = tiny.family_folders(request.param, tmp_path_factory)[1]
    return tiny.randomise(engram.load(attached)).requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, tiny.VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))


def full(model, ids, **kwargs):
    return model(input_ids=ids, use_cache=False, **kwargs).logits


def pieces(model, ids, sizes, past=None, mask=None):
    """Run piece by piece; the mask covers the past as well."""
    logits, start = [], 0
    for size in sizes:
        end = start + size
        seen = None if mask is None else mask[:, : mask.shape[1] - ids.shape[1] + end]
        out = model(
            input_ids=ids[:, start:end], attention_mask=seen, past_key_values=past, use_cache=True
        )
        past, start = out.past_key_values, end
        logits.append(out.logits)
    return torch.cat(logits, dim=1), past


def assert_same(got, expected):
    assert_near(got, expected, 128)


def test_the_memory_matters_at_every_position(model, ids):
    """Without this, every other test here could pass with a memory that is not read."""
    before = full(model, ids)
    decoder = model.get_decoder()
    module = decoder.engram_layers[1].engram
    kept = module.value_proj.weight.clone()
    module.value_proj.weight.mul_(0.5)
    after = full(model, ids)
    module.value_proj.weight.copy_(kept)
    assert ((before - after).abs().amax(dim=-1) > 1e-3).all()


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [7, 1, 5, 10], [22, 1], [2, 2, 19], [LENGTH]])
def test_cached_equals_full(model, ids, sizes):
    assert_same(pieces(model, ids, sizes)[0], full(model, ids))


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_both_of_its_names(model, ids, name):
    """Whichever of them the installed transformers has; the decoder may be called by itself."""
    past = DynamicCache(config=model.config)
    model(input_ids=ids[:, :9], use_cache=True, **{name: past})
    logits = model(input_ids=ids[:, 9:], use_cache=True, **{name: past}).logits
    assert_same(logits, full(model, ids)[:, 9:])
    past, decoder = DynamicCache(config=model.config), model.get_decoder()
    decoder(input_ids=ids[:, :9], use_cache=True, **{name: past})
    hidden = decoder(input_ids=ids[:, 9:], use_cache=True, **{name: past}).last_hidden_state
    assert_same(hidden, decoder(input_ids=ids, use_cache=False).last_hidden_state[:, 9:])
    past = DynamicCache(config=model.config)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    got = model.generate(ids, **options, **{name: past})
    assert torch.equal(got, model.generate(ids, use_cache=False, **options))
    assert past.get_seq_length() == LENGTH + 3


def test_crop_and_continue(model, ids):
    tiny.skip_unless_possible(model, "crop")
    past = DynamicCache(config=model.config)
    past.activate_past_recording()  # sliding windows forget otherwise
    # What is cropped away is another text than what follows.
    wrong = torch.cat([ids[:, :9], ids[:, :6]], dim=1)
    kept = wrong.clone()
    with torch.no_grad():
        _, past = pieces(model, wrong, [15], past)
        past.crop(-6)
        logits, past = pieces(model, ids[:, 9:], [4, 1, 9], past)
    assert_same(logits, full(model, ids)[:, 9:])
    assert torch.equal(wrong, kept)  # the caller's tokens are not the cache's to write into


@pytest.mark.parametrize("kept", [1, 5, 12, 20])
def test_crop_deeper_than_the_windows_reach(model, ids, kept):
    """What the convolutions saw before is computed again, for every layer."""
    tiny.skip_unless_possible(model, "crop")
    past = DynamicCache(config=model.config)
    past.activate_past_recording()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        _, past = pieces(model, ids, [14, 1, 8], past, mask)
        past.crop(kept - LENGTH)
        past.reorder_cache(torch.tensor([1, 0]))
        swapped, swapped_mask = ids.flip(0), mask.flip(0)
        expected = pieces(model, swapped, [LENGTH], None, swapped_mask)[0]
        logits, _ = pieces(model, swapped[:, kept:], [1] * (LENGTH - kept), past, swapped_mask)
    shown = swapped_mask[:, kept:].bool()
    assert_same(logits[shown], expected[:, kept:][shown])


def test_a_cache_remembers_little_of_a_long_text(model, ids):
    """Windows of the convolutions are as long as their reach; the past is ids and gates."""
    with torch.no_grad():
        _, past = pieces(model, ids, [11, 12])
    state = getattr(past, "self_attention_cache", past).engram
    memory = model.get_decoder().engram_layers[1].engram
    channels = model.config.engram["config"]["hc_mult"] * tiny.HIDDEN
    for layer_id, window in state.windows.items():
        assert window.shape == (2, memory.window_tokens, channels)
        assert window.untyped_storage().nbytes() <= 2 * window.nbytes
        assert state.gates[layer_id].last(99).shape == (2, LENGTH, channels // tiny.HIDDEN)
    assert len(state.windows) == 2


def test_caches_can_be_pickled_and_copied(model, ids):
    with torch.no_grad():
        _, past = pieces(model, ids, [9])
        again = [pickle.loads(pickle.dumps(past)), copy.deepcopy(past)]
        logits = pieces(model, ids[:, 9:], [4, 10], past)[0]
        for other in again:
            assert type(other) is type(past)
            assert_same(pieces(model, ids[:, 9:], [4, 10], other)[0], logits)


def test_models_can_be_pickled(model, ids):
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    assert type(again.config) is type(model.config)
    assert_same(full(again, ids), full(model, ids))
    assert_same(pieces(again, ids, [4, 1, 18])[0], full(model, ids))


def test_a_buffer_of_tokens_may_be_used_again(model, ids):
    buffer, past, logits = ids[:, :1].clone(), None, []
    with torch.no_grad():
        for step in range(LENGTH):
            buffer.copy_(ids[:, step : step + 1])
            out = model(input_ids=buffer, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits.append(out.logits)
    assert_same(torch.cat(logits, dim=1), full(model, ids))


def test_continue_outside_of_inference_mode(model, ids):
    with torch.inference_mode():
        _, past = pieces(model, ids, [4, 5])
    with torch.no_grad():
        assert_same(pieces(model, ids[:, 9:], [3, 11], past)[0], full(model, ids)[:, 9:])


def test_train_on_a_past_that_was_cropped_in_inference_mode(model, ids):
    """The windows are computed again from gates that were made there."""
    tiny.skip_unless_possible(model, "crop")
    with torch.inference_mode():
        _, past = pieces(model, ids, [9])
    past.crop(-3)
    weight = model.get_decoder().engram_layers[1].engram.value_proj.weight
    try:
        weight.requires_grad_(True)
        logits = pieces(model, ids[:, 6:], [17], past)[0]
        logits.square().sum().backward()
        assert weight.grad.abs().max() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None
    assert_same(logits.detach(), full(model, ids)[:, 6:])


def test_reset_starts_a_new_text(model, ids):
    if getattr(model.config, "layer_types", None) is None:
        past = StaticCache(config=model.config, max_cache_len=LENGTH)
        pieces(model, ids.flip(1), [LENGTH], past)
        past.reset()
        mask = torch.zeros((2, LENGTH), dtype=torch.long)
        mask[:, :9] = 1  # wider than the tokens so far, as static caches have it
        first = model(input_ids=ids[:, :9], past_key_values=past, engram_mask=mask)
        assert_same(first.logits, full(model, ids)[:, :9])


def test_reorder_select_and_repeat(model, ids):
    _, past = pieces(model, ids, [9])
    past.reorder_cache(torch.tensor([1, 0]))
    assert_same(pieces(model, ids.flip(0)[:, 9:], [14], past)[0], full(model, ids.flip(0))[:, 9:])
    _, past = pieces(model, ids, [9])
    past.batch_repeat_interleave(2)
    past.batch_select_indices(torch.tensor([0, 3]))
    assert_same(pieces(model, ids[:, 9:], [14], past)[0], full(model, ids)[:, 9:])


def test_left_padded_rows_equal_the_rows_alone(model, ids):
    pads = 6
    row = torch.cat([torch.full((1, pads), 77), ids[:1, :-pads]], dim=1)
    batch = torch.cat([row, ids[1:]])
    mask = torch.ones_like(batch)
    mask[0, :pads] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = full(model, batch, attention_mask=mask, position_ids=positions)
    assert_same(logits[:1, pads:], full(model, ids[:1, :-pads]))
    assert_same(logits[1:], full(model, ids[1:]))
    # The same, with a cache, in two calls.
    first = model(
        input_ids=batch[:, :8],
        attention_mask=mask[:, :8],
        position_ids=positions[:, :8],
        use_cache=True,
    )
    second = model(
        input_ids=batch[:, 8:],
        attention_mask=mask,
        position_ids=positions[:, 8:],
        past_key_values=first.past_key_values,
    )
    assert_same(torch.cat([first.logits, second.logits], dim=1)[:1, pads:], logits[:1, pads:])


def test_greedy_generation_with_and_without_cache(model, ids):
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    with_cache = model.generate(ids, use_cache=True, **options)
    without = model.generate(ids, use_cache=False, **options)
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] == LENGTH + 12


def test_generation_of_uneven_rows(model, ids):
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    short = ids[:1, :11]
    batch = torch.cat([torch.cat([torch.full((1, 12), 2), short], dim=1), ids[1:]])
    mask = torch.ones_like(batch)
    mask[0, :12] = 0
    together = model.generate(batch, attention_mask=mask, **options)
    assert torch.equal(together[:1, 12:], model.generate(short, **options))
    assert torch.equal(together[1:], model.generate(ids[1:], **options))


def test_packed_documents_do_not_see_each_other(model, ids):
    """The memory adds to each document of a row what it adds to the document alone."""
    lengths = [9, 1, LENGTH - 10]
    positions = torch.cat([torch.arange(length) for length in lengths])[None].expand(2, -1)
    streams = getattr(model.config, "hc_mult", 1)
    shape = (2, LENGTH, streams, tiny.HIDDEN) if streams > 1 else (2, LENGTH, tiny.HIDDEN)
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    decoder = model.get_decoder()
    layer = decoder.engram_layers[1]

    def added(ids, hidden, position_ids, state=None):
        lookup = decoder._look_up(ids, None, position_ids, state)
        return _read(layer.engram, 1, hidden, lookup)

    packed = added(ids, hidden, positions)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        alone = added(ids[:, start:end], hidden[:, start:end], None)
        assert_same(packed[:, start:end], alone)
    assert (packed - added(ids, hidden, None))[:, 9:].abs().max() > 1e-3
    # The same in pieces, with the past in a cache.
    state = MemoryState(decoder.engram_ids.addresses.layer_ids)
    cuts = [0, 4, 9, 10, 13, 20, LENGTH]
    pieces = [
        added(ids[:, a:b], hidden[:, a:b], positions[:, a:b], state) for a, b in pairwise(cuts)
    ]
    assert_same(torch.cat(pieces, dim=1), packed)


def test_a_hole_is_no_document(model, ids):
    """Masked tokens have any position ids, such as the zeros that `generate` gives them."""
    mask = torch.ones_like(ids)
    mask[0, 8:11] = 0
    mask[1, -4:] = 0
    positions = (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, 0)
    decoder = model.get_decoder()
    plain = decoder._look_up(ids, mask, None, None)
    told = decoder._look_up(ids, mask, positions, None)
    assert told.since is None
    assert torch.equal(told.ids, plain.ids)
    # A document that starts behind the hole is one.
    positions[0, 11:] -= 8
    since = decoder._look_up(ids, mask, positions, None).since
    assert since[0, 11:].tolist() == list(range(LENGTH - 11))
    assert (since[0, :11] > LENGTH).all()
    assert (since[1] > LENGTH).all()
    state = MemoryState(decoder.engram_ids.addresses.layer_ids)
    parts = [
        decoder._look_up(ids[:, a:b], mask[:, :b], positions[:, a:b], state).since
        for a, b in ((0, 9), (9, 11), (11, LENGTH))
    ]
    assert parts[:2] == [None, None]
    assert torch.equal(parts[2].clamp_max(LENGTH), since[:, 11:].clamp_max(LENGTH))


def test_a_call_with_a_wrong_id_may_be_made_again(model, ids):
    wrong = ids[:, 9:12].clone()
    wrong[0, 1] = -1
    with torch.no_grad():
        _, past = pieces(model, ids, [9])
        with pytest.raises((InputError, IndexError)):
            model(input_ids=wrong, past_key_values=past)
        assert_same(pieces(model, ids[:, 9:], [3, 11], past)[0], full(model, ids)[:, 9:])


def test_embeddings_without_ids_are_refused(model, ids):
    embedded = model.get_input_embeddings()(ids)
    tiny.skip_unless_possible(model, "embeddings")
    with pytest.raises(InputError, match="inputs_embeds"):
        model(inputs_embeds=embedded)
    assert_same(
        model(inputs_embeds=embedded, engram_input_ids=ids, use_cache=False).logits,
        full(model, ids),
    )


def test_a_cache_that_the_memory_did_not_see_is_refused(model, ids):
    past = DynamicCache(config=model.config)
    layer_shape = (2, 2 if model.config.model_type == "engram_llama" else 4, 3, 8)
    for layer_id in range(model.config.num_hidden_layers):
        past.update(torch.zeros(layer_shape), torch.zeros(layer_shape), layer_id)
    with pytest.raises(MismatchError, match="3 tokens"):
        model(input_ids=ids, past_key_values=past)


def test_training_reaches_every_weight_of_the_memory(model, ids):
    model.requires_grad_(True)
    try:
        model.train()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            if ".engram." in name:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
    finally:
        model.zero_grad()
        model.eval().requires_grad_(False)


def test_gradient_checkpointing_gives_the_same_gradients(model, ids):
    model.requires_grad_(True)
    gradients = []
    try:
        model.train()
        for checkpointing in (False, True):
            if checkpointing:
                tiny.checkpointing(model, True)
            model.zero_grad()
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            gradients.append(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )
    finally:
        tiny.checkpointing(model, False)
        model.zero_grad()
        model.eval().requires_grad_(False)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_near(gradients[1][name], gradient, 128)

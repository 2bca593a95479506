"""Documents that end with a token, by option: in configs, corpora and attached models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import engram
from engram import EngramConfig, EngramTokenizer
from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.reference import hash_ids
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.verify.verify import verify
from engram.errors import ConfigError, LayoutError
from support import tiny
from support.near import assert_near
from support.paths import BPE

EOS = 1
LENGTH = 23


def config(**changes):
    return tiny.memory_config(eos_id=EOS, ends_after_eos=True, **changes)


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    return tiny.attached_model(base, tmp_path_factory.mktemp("ends") / "attached", config())


@pytest.fixture(scope="module")
def model(attached):
    return tiny.randomise(engram.load(attached)).requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    """Two rows of several documents, one of them a lone end."""
    ids = torch.randint(3, tiny.VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    ids[0, [6, 7, 15]] = EOS
    ids[1, [0, 11]] = EOS
    return ids


def full(model, ids, **kwargs):
    return model(input_ids=ids, use_cache=False, **kwargs).logits


def assert_same(got, expected):
    assert_near(got, expected, 128)


def tokens_since_start(ids):
    """Count, in plain Python, the tokens since the last end of a document."""
    since = torch.zeros_like(ids)
    for row, tokens in enumerate(ids.tolist()):
        count = 10**6
        for column, token in enumerate(tokens):
            since[row, column] = count
            count = 0 if token == EOS else count + 1
    return since


def test_a_layer_reads_every_document_as_if_it_were_alone(model, ids):
    decoder = model.get_decoder()
    addresses = decoder.engram_ids.addresses.with_map(decoder.engram_token_map.numpy())
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 1:] = ids[:, :-1] == EOS
    settings = model.config.engram["config"]
    plain = EngramConfig.from_dict({**settings, "ends_after_eos": False})
    plain_addresses = Addresses.from_config(plain, addresses.token_map, plain.pad_id)
    hashed = torch.from_numpy(hash_ids(plain_addresses, ids.numpy(), starts=starts.numpy())[0])
    for layer_id in (1, 2):
        layer, calls = decoder.engram_layers[layer_id], []
        handle = layer.engram.register_forward_hook(
            lambda module, args, kwargs, output, calls=calls: calls.append((args, kwargs)),
            with_kwargs=True,
        )
        full(model, ids)
        handle.remove()
        (hidden, seen), kwargs = calls[0]
        seen = seen if seen.ndim == 3 else seen[:, :, layer.engram.slot]
        assert torch.equal(seen, hashed[:, :, layer.engram.slot])
        since = kwargs["since"].clamp_max(LENGTH)
        assert torch.equal(since, tokens_since_start(ids).clamp_max(LENGTH))
        own = layer.engram.add(hidden, hashed, since=tokens_since_start(ids))
        assert (own - layer.engram.add(hidden, hashed)).abs().max() > 1e-3
        # A document of the second row, alone.
        alone = layer.engram.add(hidden[1:, 12:], hashed[1:, 12:])
        assert_same(own[1:, 12:], alone)


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [7, 1, 5, 10], [8, 15], [12, 11]])
def test_cached_equals_full(model, ids, sizes):
    past, logits, start = None, [], 0
    for size in sizes:
        piece = ids[:, start : start + size]
        out = model(input_ids=piece, past_key_values=past, use_cache=True)
        past, start = out.past_key_values, start + size
        logits.append(out.logits)
    assert_same(torch.cat(logits, dim=1), full(model, ids))


def test_crop_and_continue(model, ids):
    past = DynamicCache(config=model.config)
    past.activate_past_recording()
    with torch.no_grad():
        wrong = torch.cat([ids[:, :9], torch.full((2, 4), EOS)], dim=1)
        model(input_ids=wrong, past_key_values=past)
        past.crop(-4)
        logits = model(input_ids=ids[:, 9:], past_key_values=past).logits
    assert_same(logits, full(model, ids)[:, 9:])


def test_left_padding_with_the_end_token(model, ids):
    """Tokenizers without a pad token pad with their end of text: masked, it ends nothing."""
    pads = 5
    batch = torch.cat([torch.full((2, pads), EOS), ids], dim=1)
    mask = torch.ones_like(batch)
    mask[:, :pads] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = full(model, batch, attention_mask=mask, position_ids=positions)
    assert_same(logits[:, pads:], full(model, ids))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    together = model.generate(batch, attention_mask=mask, **options)
    assert torch.equal(together[:, pads:], model.generate(ids, **options))


def test_verify_passes_and_the_published_format_is_refused(attached, tmp_path):
    assert all(check.ok is not False for check in verify(attached))
    with pytest.raises(LayoutError, match="ends documents with token 1"):
        convert(attached, tmp_path / "out", "demo", dry_run=True)


def test_the_tokenizer_starts_documents_behind_ends(ids):
    tokenizer = EngramTokenizer(config(), str(BPE))
    rows = ids.numpy()
    hashed = tokenizer.compress_and_hash(rows)
    starts = np.zeros(rows.shape, dtype=bool)
    starts[:, 1:] = rows[:, :-1] == EOS
    plain = EngramTokenizer(tiny.memory_config(), str(BPE))
    np.testing.assert_array_equal(hashed, plain.compress_and_hash(rows, starts=starts))
    assert (hashed != plain.compress_and_hash(rows)).any()
    flat = Hasher(tokenizer.addresses).hash_documents(rows.reshape(-1), [0, LENGTH, 2 * LENGTH])
    np.testing.assert_array_equal(flat, hashed.reshape(-1, *hashed.shape[2:]))


def test_wrong_configs_are_named():
    with pytest.raises(ConfigError, match="true without eos_id"):
        tiny.memory_config(ends_after_eos=True)
    with pytest.raises(ConfigError, match="not true or false"):
        tiny.memory_config(ends_after_eos=1, eos_id=1)
    with pytest.raises(ConfigError, match="always ends documents"):
        tiny.memory_config(
            layout="qwen_ple", engram_table_size=[302] * 3, eos_id=1, ends_after_eos=False
        )
    assert tiny.memory_config(eos_id=1).ends_after_eos is False

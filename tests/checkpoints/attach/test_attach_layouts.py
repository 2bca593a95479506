"""Memories of the other layouts, attached: identity, every way of running, storing, verifying."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import engram
from engram.addressing.reference import hash_ids
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import MismatchError
from engram.hf.calls import MemoryLayer
from engram.layouts import get_layout
from support import tiny
from support.layouts import layout_config
from support.near import assert_near

LENGTH = 23
EOS = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="module", params=["deepseek_v41", "qwen_ple"])
def attached(request, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "attached"
    return tiny.attached_model(base, folder, layout_config(request.param))


@pytest.fixture(scope="module")
def model(attached):
    return tiny.randomise(engram.load(attached)).requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    """Two rows with ends of texts inside, one of them twice in a row."""
    ids = torch.randint(3, tiny.VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    ids[0, [6, 7, 15]] = EOS
    ids[1, [0, 11]] = EOS
    return ids


def full(model, ids, **kwargs):
    return model(input_ids=ids, use_cache=False, **kwargs).logits


def hashed(model, ids, **kwargs):
    """Hash ids by the readable reference, from the constants that the model carries."""
    decoder = model.get_decoder()
    addresses, token_map = decoder.engram_ids.addresses, decoder.engram_token_map
    if token_map is not None:
        addresses = addresses.with_map(token_map.numpy())
    return torch.from_numpy(hash_ids(addresses, ids.numpy(), **kwargs)[0])


def assert_same(got, expected):
    assert_near(got, expected, 128)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_bases_bit_for_bit(base, attached, ids, dtype):
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model = engram.load(attached, dtype=dtype)
    assert torch.equal(plain(ids).logits, model(ids).logits)


def test_paper_start_changes_the_logits(base, attached, ids, tmp_path):
    layout = engram.load(attached).config.engram["config"]["layout"]
    paper = tiny.attached_model(base, tmp_path / "paper", layout_config(layout), init="paper")
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert (plain(ids).logits - engram.load(paper)(ids).logits).abs().max() > 1e-3


def test_every_tensor_is_stored_and_loaded(attached):
    model = engram.load(attached)
    config = engram.EngramConfig.from_dict(model.config.engram["config"])
    layout = get_layout(config.layout)
    stored = load_file(attached / "engram-00001-of-00001.safetensors")
    loaded = model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in stored.items())
    for layer_id in config.layer_ids:
        prefix = f"model.layers.{layer_id}.engram."
        names = {name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
        constants = {"multi_head_embedding.offsets", "multi_head_embedding.embedding.weight"}
        if layout.hashes == "compressed" and layer_id == config.layer_ids[0]:
            constants.add("token_map")
        assert names == constants | set(layout.dense_shapes(config.sizes))
    table = "model.layers.1.engram.multi_head_embedding.embedding.weight"
    assert stored[table].shape[0] % config.row_multiple == 0


def test_the_memory_is_the_same_module_as_standing_alone(model, ids):
    """Wired, a layer sees the sum that `add` gives for the reference's hash ids."""
    hash_ids_ = hashed(model, ids)
    for layer_id in (1, 2):
        layer = model.get_decoder().engram_layers[layer_id]
        calls = []
        handle = layer.register_forward_hook(
            lambda module, args, kwargs, output, calls=calls: calls.append((args, kwargs, output)),
            with_kwargs=True,
        )
        full(model, ids)
        handle.remove()
        (hidden, *args), kwargs, output = calls[0]
        summed = layer.engram.add(hidden, hash_ids_)
        assert (summed - hidden).abs().amax(dim=-1).min() > 0.01
        del kwargs["engram"]
        again = super(MemoryLayer, layer).forward(summed, *args, **kwargs)
        assert_near(again, output)


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [7, 1, 5, 10], [22, 1], [2, 2, 19]])
def test_cached_equals_full(model, ids, sizes):
    logits, past, start = [], None, 0
    for size in sizes:
        piece = ids[:, start : start + size]
        out = model(input_ids=piece, past_key_values=past, use_cache=True)
        past, start = out.past_key_values, start + size
        logits.append(out.logits)
    assert_same(torch.cat(logits, dim=1), full(model, ids))


def test_left_padded_rows_equal_the_rows_alone(model, ids):
    pads = 6
    batch = ids.clone()
    batch[0, :pads], batch[0, pads:] = 77, ids[0, :-pads]
    mask = torch.ones_like(batch)
    mask[0, :pads] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = full(model, batch, attention_mask=mask, position_ids=positions)
    assert_same(logits[:1, pads:], full(model, ids[:1, :-pads]))
    assert_same(logits[1:], full(model, ids[1:]))


def test_an_end_of_text_hides_what_is_before_it(model, ids):
    """Only qwen_ple has that rule; in the other layout n-grams reach over it."""
    other = ids.clone()
    other[0, 5], other[1, 10] = 99, 98  # the tokens before an end of text
    decoder = model.get_decoder()
    rows = [decoder.engram_ids(each, decoder.engram_token_map, None, None) for each in (ids, other)]
    assert torch.equal(rows[0], hashed(model, ids))
    changed = (rows[0] != rows[1]).any(dim=-1).any(dim=-1)
    positions = [row.nonzero()[:, 0].tolist() for row in changed]
    if model.config.engram["config"]["layout"] == "qwen_ple":
        # The end of text itself still looks back.
        assert positions == [[5, 6], [10, 11]]
    else:
        assert positions == [[5, 6, 7, 8], [10, 11, 12, 13]]


def test_save_and_load_again(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    again = engram.load(tmp_path)
    assert torch.equal(model(ids).logits, again(ids).logits)


def test_training_reaches_every_weight_of_the_memory(attached, ids):
    model = tiny.randomise(engram.load(attached)).train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        if ".engram." in name:
            assert parameter.grad.abs().sum() > 0, name


def test_a_missing_tensor_fails_the_load(attached, tmp_path):
    for path in attached.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "engram-00001-of-00001.safetensors"
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith(("q_weight", "norm_conv.weight")))
    del tensors[name]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="engram"):
        engram.load(tmp_path)
    checks = {check.name: check for check in verify(tmp_path, headers_only=True)}
    assert not all(check.ok is not False for check in checks.values())


def test_verify_finds_it_right(attached):
    checks = {check.name: check for check in verify(attached)}
    assert {check.ok for check in checks.values()} <= {True, None}, checks
    assert checks["memory responds"].ok
    assert checks["cached = full"].ok
    if "qwen_ple" in json.dumps(json.loads((attached / "config.json").read_text())["engram"]):
        assert "raw ids" in checks["token map"].detail


def test_parts_are_counted_as_stored(attached):
    inspection = inspect_checkpoint(attached)
    config = inspection.config
    dense = get_layout(config.layout).dense_parts(config.sizes)
    parts = {part.part: part.params for part in inspection.weights}
    assert {f"layers.1.{name}": count for name, count in dense.items()}.items() <= parts.items()


def test_raw_ids_need_no_tokenizer(base, tmp_path):
    copy = tmp_path / "base"
    copy.mkdir()
    for path in base.iterdir():
        if path.is_file() and not path.name.startswith("tokenizer"):
            (copy / path.name).write_bytes(path.read_bytes())
    attached = tiny.attached_model(copy, tmp_path / "attached", layout_config("qwen_ple"))
    ids = torch.tensor([[5, EOS, 9, 31]])
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert torch.equal(plain(ids).logits, engram.load(attached)(ids).logits)
    assert np.isfinite(full(tiny.randomise(engram.load(attached)), ids).detach().numpy()).all()


def test_a_longer_tokenizer_is_refused_for_raw_ids_too(base, tmp_path):
    config = layout_config("qwen_ple", engram_vocab_size=tiny.VOCAB - 1)
    with pytest.raises(MismatchError, match=str(tiny.VOCAB)):
        tiny.attached_model(base, tmp_path / "attached", config)

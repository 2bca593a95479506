"""State of the module: golden state dicts, copies, constants that come back."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError
from engram.nn import DemoModule, EngramModule
from support.demo_modules import make_config, make_inputs, make_module
from support.near import assert_near
from support.paths import GOLDEN


@pytest.fixture(scope="module")
def golden():
    meta = json.loads((GOLDEN / "demo_v1_forward_f32.json").read_text())["config"]
    tensors = load_file(GOLDEN / "demo_v1_forward_f32.safetensors")
    config = EngramConfig(
        hidden_size=meta["hidden_size"],
        engram_vocab_size=544,
        engram_table_size=[s * meta["n_head_per_ngram"] for s in meta["engram_vocab_size"]],
        n_embed_per_ngram=meta["n_embed_per_ngram"],
        n_head_per_ngram=meta["n_head_per_ngram"],
        layer_ids=meta["layer_ids"],
        hc_mult=meta["hc_mult"],
        kernel_size=meta["kernel_size"],
        pad_id=meta["pad_id"],
        seed=meta["seed"],
    )
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return config, meta["layer_id"], state, tensors


def test_golden_state_dict_loads_as_is_and_forward_is_equal(golden):
    config, layer_id, state, tensors = golden
    module = EngramModule(config, head_primes(config)[layer_id])
    before = dict(state)
    result = module.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert state.keys() == before.keys()
    out = module(tensors["in.hidden_states"], tensors["mid.hash_ids"])
    assert_near(out, tensors["out"])
    again = EngramModule(config, head_primes(config)[layer_id])
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(tensors["in.hidden_states"], tensors["mid.hash_ids"]), out)


def test_golden_state_dict_loads_inside_a_larger_model(golden):
    config, layer_id, state, tensors = golden
    parent = torch.nn.ModuleDict({"engram": EngramModule(config, head_primes(config)[layer_id])})
    parent.load_state_dict({f"engram.{name}": tensor for name, tensor in state.items()})
    out = parent["engram"](tensors["in.hidden_states"], tensors["mid.hash_ids"])
    assert_near(out, tensors["out"])


def test_a_missing_stream_is_not_papered_over(golden):
    config, layer_id, state, _ = golden
    module = EngramModule(config, head_primes(config)[layer_id])
    state = {k: v for k, v in state.items() if k != "norm1.2.weight"}
    with pytest.raises(RuntimeError, match="norm_key"):
        module.load_state_dict(state)


def test_a_table_for_other_heads_is_refused(golden):
    config, layer_id, state, _ = golden
    module = EngramModule(config, head_primes(config)[layer_id])
    offsets = state["multi_head_embedding.offsets"] + torch.tensor([0, 0, 0, 2])
    with pytest.raises(MismatchError, match="entry 3 must be"):
        module.load_state_dict({**state, "multi_head_embedding.offsets": offsets})


def test_copies_and_pickles():
    module = make_module(make_config())
    hidden, ids = make_inputs(module)
    assert type(module) is DemoModule
    assert isinstance(module, EngramModule)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is DemoModule
        assert twin.slot == module.slot
        assert torch.equal(twin(hidden, ids), module(hidden, ids))
        twin.load_state_dict(module.state_dict())


def test_built_on_the_meta_device_every_constant_comes_back():
    config = make_config(row_multiple=64, hc_mult=2)
    module = make_module(config)
    hidden, ids = make_inputs(module)
    state = OrderedDict((k, v.clone()) for k, v in module.state_dict().items())
    with torch.device("meta"):
        by_context = EngramModule(config, head_primes(config)[1])
    by_argument = EngramModule(config, head_primes(config)[1], device="meta")
    for built in (by_context, by_argument):
        tensors = [*built.parameters(), *built.buffers()]
        assert len(tensors) == len(state)
        assert all(tensor.is_meta for tensor in tensors)
        built.load_state_dict(state, assign=True)
        assert torch.equal(built(hidden, ids), module(hidden, ids))
    empty = EngramModule(config, head_primes(config)[1], device="meta").to_empty(device="cpu")
    empty.multi_head_embedding.offsets.fill_(-7)
    empty.reset_parameters()
    assert torch.equal(empty.multi_head_embedding.offsets, state["multi_head_embedding.offsets"])

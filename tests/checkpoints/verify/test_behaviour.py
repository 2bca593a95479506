"""`engram verify` with weights: the matrix of ways of running, and what it says of mistakes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import engram
from engram.checkpoints.attach.proof import max_logit_difference
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify import behaviour
from engram.checkpoints.verify.behaviour import behaviour_checks
from engram.errors import LayoutError
from engram.hf.models import EngramForCausalLM
from engram.hf.state import MemoryState
from engram.hf.unwired import base_of
from support import more_families, tiny

# Every release of transformers has these; the range goes through its own few families.
MORE = sorted(more_families.SIZES) if len(tiny.FAMILIES) == len(tiny.SIZES) else []
MATRIX = [
    *("cached = full", "chunked = full", "padded = full", "crop and go on", "greedy"),
    *("uneven batch", "beam search", "assisted", "prompt lookup", "static cache"),
    *("static, padded", "sampling", "two threads"),
]
# What transformers' own models cannot do.
NOT_WITH_THE_BASE = {
    "deepseek_v4": {
        *("prompt lookup", "assisted", "static cache", "static, padded", "crop and go on")
    }
}
IDS = torch.tensor([[5, 9, 2, 31, 17, 200, 63, 8, 9, 2, 31]])


def checks_of(folder):
    return {check.name: check for check in behaviour_checks(open_checkpoint(folder))}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_way_of_running_every_family(family, tmp_path_factory):
    found = checks_of(tiny.family_folders(family, tmp_path_factory)[1])
    assert list(found) == ["load", "finite", "memory responds", *MATRIX]
    assert [name for name, check in found.items() if check.ok is False] == []
    unknown = {name for name, check in found.items() if check.ok is None}
    assert unknown == NOT_WITH_THE_BASE.get(family, set())
    assert all("not with the base alone either" in found[name].detail for name in unknown)


@pytest.mark.parametrize("family", MORE)
def test_every_way_of_running_further_families(family, tmp_path):
    base = tiny.base_model(family, tmp_path / "base", sizes=more_families.SIZES[family])
    found = checks_of(tiny.attached_model(base, tmp_path / "attached"))
    assert [name for name, check in found.items() if check.ok is False] == []
    unknown = {name for name, check in found.items() if check.ok is None}
    assert unknown <= more_families.NOT_WITH_THE_BASE.get(family, set())
    assert all("not with the base alone either" in found[name].detail for name in unknown)
    assert {"cached = full", "greedy", "padded = full", "uneven batch"} <= found.keys() - unknown


def test_the_base_of_a_model_shares_its_weights(llama):
    model = tiny.randomise(engram.load(llama[1]))
    before = model(IDS).logits
    base = base_of(model)
    assert torch.equal(base(IDS).logits, AutoModelForCausalLM.from_pretrained(llama[0])(IDS).logits)
    assert type(base).__name__ == "LlamaForCausalLM"
    own = {name: value.data_ptr() for name, value in model.named_parameters()}
    assert all(own[name] == value.data_ptr() for name, value in base.named_parameters())
    assert len(list(base.parameters())) < len(own)
    assert torch.equal(model(IDS).logits, before)
    assert (before - base(IDS).logits).abs().max() > 1e-2


def test_a_memory_that_forgets_to_crop_fails(llama, monkeypatch):
    monkeypatch.setattr(MemoryState, "crop", lambda self, tokens: None)
    found = checks_of(llama[1])
    assert found["crop and go on"].ok is False
    assert found["assisted"].ok is False
    assert found["cached = full"].ok


def test_a_memory_that_stays_while_beams_move_fails(llama, monkeypatch):
    monkeypatch.setattr(MemoryState, "map_batch", lambda self, select: None)
    found = checks_of(llama[1])
    assert found["beam search"].ok is False
    assert found["greedy"].ok


def test_rounding_in_float32_is_judged_again_in_float64(llama, monkeypatch):
    """How sums are rounded depends on the processor and its threads."""
    monkeypatch.setitem(behaviour.TOLERANCE, "float32", 0.0)
    found = checks_of(llama[1])
    assert found["cached = full"].ok
    assert found["cached = full"].detail.startswith("in float64: largest logit difference")
    monkeypatch.setattr(MemoryState, "crop", lambda self, tokens: None)
    assert checks_of(llama[1])["crop and go on"].ok is False


def test_a_memory_that_remembers_a_little_wrong_fails(llama, monkeypatch):
    """A difference that changes no token is found in the logits."""
    begin = MemoryState.__init__

    class Inexact(dict):
        def __setitem__(self, layer_id, window):
            super().__setitem__(layer_id, window * 1.01)

    def inexactly(self, layer_ids):
        begin(self, layer_ids)
        self.windows = Inexact(self.windows)

    monkeypatch.setattr(MemoryState, "__init__", inexactly)
    found = checks_of(llama[1])
    assert found["greedy"].ok is False
    assert "the same tokens; largest logit difference" in found["greedy"].detail
    assert found["padded = full"].ok


@pytest.mark.parametrize("error", [ValueError, AttributeError])
def test_what_only_the_memory_cannot_do_fails(llama, monkeypatch, error):
    def fail(self, *args, **kwargs):
        raise error("not so")

    monkeypatch.setattr(EngramForCausalLM, "prepare_inputs_for_generation", fail)
    found = checks_of(llama[1])
    assert found["beam search"].ok is False
    assert found["beam search"].detail.startswith("it fails: ")
    assert found["cached = full"].ok


def test_tokens_are_not_compared_in_half_precision(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.verify.behaviour._available_bytes", lambda: 200_000)
    base = tiny.base_model("llama", tmp_path / "base", torch.bfloat16)
    found = checks_of(tiny.attached_model(base, tmp_path / "attached"))
    assert found["load"].detail == "EngramLlamaForCausalLM in bfloat16"
    assert found["greedy"].ok is None
    assert found["cached = full"].ok
    monkeypatch.setattr("engram.checkpoints.verify.behaviour._available_bytes", lambda: 1000)
    assert checks_of(tmp_path / "attached")["load"].ok is None


def test_a_base_of_nan_is_not_judged(tmp_path):
    """Its own logits are no number, whatever the memory does; and attach says so, too."""
    base = tiny.base_model("llama", tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    folder = tiny.attached_model(base, tmp_path / "attached")
    found = checks_of(folder)
    assert list(found) == ["load", "finite"]
    assert found["finite"].ok is None
    with pytest.raises(LayoutError, match="the base's own logits are NaN"):
        max_logit_difference(base, folder)

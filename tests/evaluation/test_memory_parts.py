"""`memory_off`, `MemoryWatch` and `open_model`: switching a memory off, watching it, opening it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import engram
from engram.errors import LayoutError, MismatchError, UsageError
from engram.evaluation import MemoryWatch, memory_off, open_compared, open_model
from engram.evaluation.open_models import name_runs
from engram.hf.unwired import base_of
from engram.training.document_loss import cut_windows, read_windows
from support.tiny import FAMILIES, attached_model, base_model, family_folders, randomise


def ids_of(count: int = 2) -> torch.Tensor:
    return torch.randint(3, 500, (count, 24), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_memory_that_is_off_leaves_the_base(family, tmp_path_factory):
    model = randomise(engram.load(family_folders(family, tmp_path_factory)[1]))
    ids = ids_of()
    with torch.no_grad():
        base, on = base_of(model)(input_ids=ids).logits, model(input_ids=ids).logits
        with memory_off(model):
            off = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert torch.equal(off, base)
    assert not torch.allclose(on, base)
    assert torch.equal(again, on)


def test_decoding_with_a_memory_that_is_off_equals_decoding_of_the_base(tmp_path_factory):
    model = randomise(engram.load(family_folders("llama", tmp_path_factory)[1]))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    with memory_off(model):
        off = model.generate(ids_of(), **options)
    assert torch.equal(off, base_of(model).generate(ids_of(), **options))


@pytest.mark.parametrize("family", ["llama", "deepseek_v4"])
def test_a_watch_tells_gates_and_norms_of_what_is_added(family, tmp_path_factory):
    if family not in FAMILIES:
        pytest.skip(f"{family} is not among the families of this run")
    model = randomise(engram.load(family_folders(family, tmp_path_factory)[1]))
    seen = {}

    def keep(memory, args, kwargs, output):
        hidden = args[0]
        seen[memory.layer_id] = hidden.float(), (output[0] - hidden).float()

    memories = [it for it in model.modules() if isinstance(it, engram.EngramModule)]
    hooks = [memory.register_forward_hook(keep, with_kwargs=True) for memory in memories]
    with MemoryWatch(model) as watch, torch.no_grad():
        model(input_ids=ids_of())
    for hook in hooks:
        hook.remove()
    assert list(watch.readings) == sorted(seen) == [1, 2]
    for layer_id, reading in watch.readings.items():
        hidden, added = (it.reshape(2, 24, -1, 32) for it in seen[layer_id])
        torch.testing.assert_close(reading.stream_norms, hidden.norm(dim=-1))
        torch.testing.assert_close(reading.write_norms, added.norm(dim=-1), rtol=1e-3, atol=1e-4)
        assert reading.gates.shape == reading.write_norms.shape == hidden.shape[:3]
        assert 0 < reading.gates.min() < reading.gates.max() < 1
        torch.testing.assert_close(
            reading.relative_writes, reading.write_norms / reading.stream_norms
        )
    assert all(memory.on_read is None for memory in memories)


def test_windows_are_read_with_the_loss_of_every_token(tmp_path_factory):
    model = randomise(engram.load(family_folders("llama", tmp_path_factory)[1]))
    numbers = np.random.default_rng(0)
    documents = [numbers.integers(3, 500, size) for size in (1, 30, 2, 17, 16, 33)]
    found = {}
    for batch, losses in read_windows(model, cut_windows(documents, 16), batch_tokens=40):
        for window, nats in zip(batch, losses, strict=True):
            found[window.document, window.begin] = nats
    assert sorted(found) == [(1, 0), (1, 16), (2, 0), (3, 0), (4, 0), (5, 0), (5, 16)]
    for (number, begin), nats in found.items():
        ids = torch.tensor(documents[number][begin : begin + 16])[None]
        with torch.no_grad():
            logs = model(input_ids=ids).logits.double().log_softmax(-1)
        expected = [-float(logs[0, at, ids[0, at + 1]]) for at in range(ids.shape[1] - 1)]
        np.testing.assert_allclose(nats, expected, rtol=1e-5)


def test_an_attached_folder_and_an_adapter_are_opened_alike(tmp_path):
    base = base_model("llama", tmp_path / "base")
    folder = attached_model(base, tmp_path / "attached")
    attached_model(base, tmp_path / "adapter", adapter=True)
    (folder / "engram_training.json").write_text(json.dumps({"steps": 3}))
    whole = open_model(folder)
    beside = open_model(base, tmp_path / "adapter")
    assert whole.training == {"steps": 3}
    assert beside.training is None
    assert whole.tokenizer.digest == beside.tokenizer.digest
    assert whole.addresses.fingerprint == beside.addresses.fingerprint
    assert not whole.model.training
    with torch.no_grad():
        assert torch.equal(*(it.model(input_ids=ids_of()).logits for it in (whole, beside)))


def test_models_that_cannot_be_compared_are_refused(tmp_path):
    base = base_model("llama", tmp_path / "base")
    subject = open_model(attached_model(base, tmp_path / "attached"))
    assert type(open_compared(base, subject)).__name__ == "LlamaForCausalLM"
    assert open_compared(tmp_path / "attached", subject).config.engram
    attached_model(base, tmp_path / "adapter", adapter=True)
    with pytest.raises(LayoutError, match="an adapter"):
        open_compared(tmp_path / "adapter", subject)
    file = base / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    content["added_tokens"] = content["added_tokens"][:-1]
    file.write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="another tokenizer"):
        open_compared(base, subject)
    with pytest.raises(UsageError, match="has no memory"):
        MemoryWatch(base_of(subject.model))


def test_runs_have_names_of_their_own(tmp_path):
    assert name_runs(["a/x", "b/y"], {"on"}) == ["x", "y"]
    assert name_runs(["a/x", "b/x"], {"on"}) == ["x", "b/x"]
    assert name_runs(["a/on"], {"on"}) == ["a/on"]
    with pytest.raises(UsageError, match="given twice"):
        name_runs(["a/x", "b/y", "./a/x"], set())

"""A new family is one file of data, one module where its arithmetic is new, and one entry."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.addressing.tokenizer import EngramTokenizer
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import LayoutError, MismatchError
from engram.layouts import LAYOUTS
from engram.layouts.dialect import Key
from engram.nn import EngramModule
from engram.tensor_names import TABLE
from support import tiny
from support.checked import failed, verdicts
from support.layouts import save_random_memory
from support.paths import BPE
from support.toy_layout import RELEASED, SERVED, TOY
from support.toy_module import ToyModule

IDS = torch.randint(3, tiny.VOCAB, (2, 17), generator=torch.Generator().manual_seed(3))
SETTINGS = {"layout": "toy", "kernel_size": 0, "engram_table_size": [302] * 3, "row_multiple": 4}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The one line in a registry; the module's class enters itself."""
    monkeypatch.setitem(LAYOUTS, TOY.name, TOY)


@pytest.fixture
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture
def attached(base, tmp_path):
    folder = tiny.attached_model(base, tmp_path / "attached", tiny.memory_config(**SETTINGS))
    return save_random_memory(folder)


@pytest.fixture
def published(attached, tmp_path):
    return convert(attached, tmp_path / "published", "toy")


def convert(source, output, to="attached", **options):
    engram.convert(source, output, to, **options)
    return output


def tensors(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def memory_of(folder):
    return {name: value for name, value in tensors(folder).items() if ".engram." in name}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def logits(folder):
    with torch.no_grad():
        return engram.load(folder)(IDS).logits


def test_it_attaches_saves_and_verifies(attached, base, tmp_path):
    module = engram.load(attached).get_decoder().engram_layers[1].engram
    assert isinstance(module, ToyModule)
    assert not torch.equal(logits(attached), logits_of_base(base))
    assert [check for check in verify(attached) if check.ok is False] == []
    engram.load(attached).save_pretrained(tmp_path / "saved")
    assert_same(memory_of(tmp_path / "saved"), memory_of(attached))
    assert torch.equal(logits(tmp_path / "saved"), logits(attached))
    found = inspect_checkpoint(attached)
    assert {part.part for part in found.weights if part.layer_id == 1} == {
        *("layers.1.table", "layers.1.value", "layers.1.gate", "layers.1.constants")
    }


def logits_of_base(base):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(base)(IDS).logits


def test_published_names_and_back_are_equal_to_the_bit(attached, published, base, tmp_path):
    names = set(tensors(published))
    layer = {name for name in names if name.startswith("net.blocks.1.recall.")}
    assert {name.removeprefix("net.blocks.1.recall.") for name in layer} == {
        *("starts", "heads", "hash", "to_value.weight", "gates.0.weight"),
        *(f"rows.{i}.weight" for i in range(4)),
    }
    assert len(names) == 2 * len(layer)
    back = convert(published, tmp_path / "back", base=base)
    assert_same(memory_of(back), memory_of(attached))
    assert torch.equal(logits(back), logits(attached))
    assert_same(tensors(convert(back, tmp_path / "again", "toy")), tensors(published))


def test_the_published_config_says_it_all(attached, published, base, tmp_path):
    stated = json.loads((published / "config.json").read_text())
    assert stated["model_type"] == "toy_lm"
    assert stated["recall_blocks"] == [3, 2]
    assert stated["recall_row_width"] == 4
    (published / "engram_memory.json").unlink()
    found = inspect_checkpoint(published)
    right = tiny.memory_config(**SETTINGS, table_dtype="float32", tokenizer=str(published))
    assert found.config == right
    for file in BPE.iterdir():
        (published / file.name).write_bytes(file.read_bytes())
    checks = verdicts(published)
    assert [name for name, check in checks.items() if check.ok is False] == []
    passed = {name for name, check in checks.items() if check.ok}
    assert passed == {
        *("family", "files", "tensors", "scales", "sizes", "rows", "constants", "tokenizer")
    }
    back = convert(published, tmp_path / "back", base=base)
    assert_same(memory_of(back), memory_of(attached))


def test_another_dialect_is_read(attached, published, base, tmp_path):
    shards = [tensors(published)[f"net.blocks.1.recall.rows.{i}.weight"] for i in range(4)]
    assert torch.equal(torch.cat(shards), memory_of(attached)[f"model.layers.1.engram.{TABLE}"])

    def served(name):
        slot = RELEASED.read(name)
        return SERVED.write(slot.key, slot.shard, like="model." + name)

    found = tensors(published)
    whole = {}
    for name, value in found.items():
        whole.setdefault(served(name), []).append(value)
    for file in [*published.glob("*.safetensors"), published / "model.safetensors.index.json"]:
        file.unlink()
    joined = {name: torch.cat(values) for name, values in whole.items()}
    assert "model.net.blocks.1.recall.memory.weight" in joined
    save_file(joined, published / "model.safetensors", {"format": "pt"})
    assert failed(published) == {}
    back = convert(published, tmp_path / "back", base=base)
    assert_same(memory_of(back), memory_of(attached))


def test_verify_names_what_is_wrong(published):
    (file,) = published.glob("*.safetensors")
    found = tensors(published)
    del found["net.blocks.1.recall.gates.0.weight"]
    found["net.blocks.1.recall.extra"] = torch.ones(3)
    found["net.blocks.2.recall.hash"][2] += 2
    (published / "model.safetensors.index.json").unlink()
    save_file(found, file, {"format": "pt"})
    problems = failed(published)
    assert problems["tensors"].startswith("net.blocks.1.recall.gates.0.weight is missing")
    assert problems["constants"].startswith("net.blocks.2.recall.hash[2] is ")
    settings = json.loads((published / "config.json").read_text())
    settings["recall_rows"][0] += 1
    (published / "config.json").write_text(json.dumps(settings))
    assert problems.keys() | {"rows"} == failed(published).keys()


@pytest.mark.parametrize("dialect", [RELEASED, SERVED], ids=lambda dialect: dialect.name)
def test_a_module_loads_published_names(attached, published, dialect):
    config = tiny.memory_config(**SETTINGS)
    module = EngramModule(config, EngramTokenizer(config, BPE).vocab_distributions[1])
    state = {}
    for name, value in tensors(published).items():
        slot = RELEASED.read(name)
        if slot.key.layer_id == 1:
            inside = dialect.write(slot.key, slot.shard).partition(".recall.")[2]
            state[inside] = torch.cat([state[inside], value]) if inside in state else value
    result = module.load_state_dict(dict(state))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    expected = memory_of(attached)
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[f"model.layers.1.engram.{name}"]), name
    state["heads"] = state["heads"] + 1
    with pytest.raises(MismatchError, match="heads"):
        module.load_state_dict(state)


def test_a_module_loads_what_it_can_derive_or_cannot_compare(monkeypatch):
    """Of a release without offsets, in shards; and multipliers that follow from the layer's id."""
    names = {ours: name for ours, name in RELEASED.names.items() if ours != "offsets"}
    dialect = replace(RELEASED, names=names)
    raw = {"hashes": "raw", "fill": "eos", "ends_after_eos": True}
    layout = replace(TOY, name="bare", module="toy", dialects=(dialect,), **raw)
    monkeypatch.setitem(LAYOUTS, "bare", layout)
    config = tiny.memory_config(**{**SETTINGS, "layout": "bare", "pad_id": None, "eos_id": 1})
    tokenizer = EngramTokenizer(config, BPE)
    source, module = (EngramModule(config, tokenizer.vocab_distributions[1]) for _ in range(2))
    ours = source.state_dict()
    state = {f"rows.{i}.weight": part for i, part in enumerate(ours[TABLE].chunk(4))}
    state |= {"to_value.weight": ours["value.weight"], "gates.0.weight": ours["gate"][0]}
    layer = next(layer for layer in tokenizer.addresses.layers if layer.layer_id == 1)
    state["hash"] = torch.tensor(layer.multipliers)
    module.load_state_dict(state)
    assert_same(module.state_dict(), ours)


def test_a_layout_may_borrow_another_ones_module(monkeypatch):
    monkeypatch.setitem(LAYOUTS, "twin", replace(TOY, name="twin", module="toy"))
    config = tiny.memory_config(**{**SETTINGS, "layout": "twin"})
    module = EngramModule(config, EngramTokenizer(config, BPE).vocab_distributions[1])
    assert type(module) is ToyModule
    assert module.layout.name == "twin"


def test_other_layouts_are_not_written_as_it(published, base, tmp_path):
    folder = tiny.attached_model(base, tmp_path / "demo")
    with pytest.raises(LayoutError, match="one gate a stream and nothing else"):
        convert(folder, tmp_path / "x", "toy", dry_run=True)
    with pytest.raises(LayoutError, match="no tensors for fp8"):
        convert(published, tmp_path / "x", "toy", dtype="fp8", dry_run=True)


def test_a_dialect_may_share_its_place_with_the_model():
    """Engines of other formats put a memory's tensors among those of the layer."""
    dialect = replace(
        RELEASED,
        name="an engine",
        root="",
        place="blk.{layer}.",
        own=False,
        names={TABLE: "memory_embd.weight", "gate": "memory_gate.{stream}.weight"},
    )
    assert dialect.read("blk.14.memory_embd.weight").key == Key(14, TABLE)
    assert dialect.read("blk.14.memory_gate.3.weight").key == Key(14, "gate", 3)
    assert dialect.read("blk.14.attn_q.weight") is None
    assert dialect.write(dialect.read("blk.2.memory_gate.0.weight").key) == (
        "blk.2.memory_gate.0.weight"
    )


def test_our_own_names_are_unknown_to_families_that_have_others():
    key = RELEASED.read(f"net.blocks.3.recall.{TABLE}").key
    assert (key.known, key.name) == (False, TABLE)
    assert key != RELEASED.read("net.blocks.3.recall.rows.0.weight").key
    assert not TOY.marks(f"net.blocks.3.recall.{TABLE}")

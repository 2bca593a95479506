"""Adapters join with their base only, and detaching gives the base back byte for byte."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import engram
from engram.checkpoints.attach.detach import detach
from engram.errors import InputError, LayoutError, MismatchError, MissingFileError
from support import tiny

IDS = torch.tensor([[5, 9, 2, 31, 17, 200, 63, 8, 9, 2, 31]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return tiny.attached_model(base, tmp_path_factory.mktemp("adapter") / "memory", adapter=True)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_an_adapter_is_the_memory_alone(base, adapter):
    weights = {name for name in files(adapter) if name.endswith(".safetensors")}
    assert weights == {"engram-00001-of-00001.safetensors"}
    names = load_file(adapter / "engram-00001-of-00001.safetensors")
    assert all(".engram." in name for name in names)
    plain = AutoModelForCausalLM.from_pretrained(base)
    model = engram.load(base, adapter)
    assert torch.equal(plain(IDS).logits, model(IDS).logits)


def test_a_trained_adapter_counts(base, adapter, tmp_path):
    whole = tiny.attached_model(base, tmp_path / "whole")
    trained = tiny.randomise(engram.load(whole))
    shard = "engram-00001-of-00001.safetensors"
    values = trained.state_dict()
    for folder in (adapter,):
        tensors = {name: values[name].contiguous() for name in load_file(folder / shard)}
        copy = tmp_path / "trained"
        copy.mkdir()
        for name, content in files(folder).items():
            (copy / name).write_bytes(content)
        save_file(tensors, copy / shard, metadata={"format": "pt"})
    assert torch.equal(engram.load(base, copy)(IDS).logits, trained(IDS).logits)


def test_another_base_is_refused(adapter, tmp_path, tmp_path_factory):
    other = tiny.family_folders("mistral", tmp_path_factory)[0]
    with pytest.raises(MismatchError, match="was made for base"):
        engram.load(other, adapter)


def test_what_is_no_adapter_is_refused(base, tmp_path):
    with pytest.raises(MissingFileError, match="not an adapter"):
        engram.load(base, tmp_path)


@pytest.mark.parametrize("link", [True, False])
def test_detach_gives_the_base_back(base, tmp_path, link):
    attached = tiny.attached_model(base, tmp_path / "attached")
    detach(attached, tmp_path / "again", link=link)
    assert files(tmp_path / "again") == files(base)


def test_detach_gives_a_sharded_base_back(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", max_shard_size="60KB")
    (base / "README.md").write_text("the base's own card")
    attached = tiny.attached_model(base, tmp_path / "attached", link=True)
    assert "attached to" in (attached / "README.md").read_text()
    detach(attached, tmp_path / "again")
    assert files(tmp_path / "again") == files(base)


def test_detach_says_why_there_is_nothing_to_detach(base, adapter, tmp_path):
    (tmp_path / "text.txt").write_text("no folder")
    for folder, error, words in (
        (base, LayoutError, "has no memory that `engram attach` wrote"),
        (adapter, LayoutError, f"is an adapter: a memory alone, beside which {base.name} was"),
        (tmp_path / "none", MissingFileError, "none does not exist"),
        (tmp_path / "text.txt", MissingFileError, "text.txt is not a folder"),
    ):
        with pytest.raises(error, match=words) as caught:
            detach(folder, tmp_path / "again")
        assert caught.value.hint
    assert not (tmp_path / "again").exists()


def test_detach_refuses_a_folder_that_was_saved_anew(base, tmp_path):
    engram.load(tiny.attached_model(base, tmp_path / "attached")).save_pretrained(tmp_path / "new")
    assert "engram" in json.loads((tmp_path / "new" / "config.json").read_text())
    with pytest.raises(LayoutError, match="saved anew"):
        detach(tmp_path / "new", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_detach_refuses_a_folder_that_was_saved_over(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", max_shard_size="60KB")
    attached = tiny.attached_model(base, tmp_path / "attached")
    model = engram.load(attached)
    with torch.no_grad():
        model.model.norm.weight.add_(1.0)
    model.save_pretrained(attached, max_shard_size="60KB")
    with pytest.raises(LayoutError, match="saved anew"):
        detach(attached, tmp_path / "again")


def test_files_below_the_base_are_kept(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (base / ".gitattributes").write_text("*.safetensors lfs")
    attached = tiny.attached_model(base, tmp_path / "attached")
    assert (attached / "additional_chat_templates" / "tools.jinja").is_file()
    detach(attached, tmp_path / "again")
    assert (tmp_path / "again" / "additional_chat_templates" / "tools.jinja").is_file()
    assert files(tmp_path / "again") == files(base)


def test_an_adapter_with_weights_offloaded_to_disk(base, adapter, tmp_path):
    model = engram.load(
        base,
        adapter,
        device_map="auto",
        max_memory={"cpu": 20_000, "disk": 10**9},
        offload_folder=tmp_path / "offload",
    )
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert torch.equal(plain(IDS).logits, model(IDS).logits)
    assert model.config._name_or_path == str(base)


def test_detach_keeps_what_is_there(base, tmp_path):
    attached = tiny.attached_model(base, tmp_path / "attached")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(InputError, match="there already"):
        detach(attached, tmp_path / "mine")

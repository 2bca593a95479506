"""Attached models whose tables stay in the checkpoint's files compute what the others compute."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import engram
from engram.checkpoints.attach import attach
from engram.errors import (
    CorruptFileError,
    InputError,
    LayoutError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from engram.nn import DiskEmbedding
from support import tiny

FAMILIES = ["gpt2", "llama", "qwen3_moe"]
IDS = torch.randint(3, tiny.VOCAB, (2, 19), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """An attached checkpoint with random weights."""
    return random_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_checkpoint("llama", tmp_path_factory.mktemp("llama"), max_shard_size="60KB")


def random_checkpoint(family, folder, **save):
    base = tiny.base_model(family, folder / "base")
    model = tiny.randomise(engram.load(tiny.attached_model(base, folder / "attached")))
    model.save_pretrained(folder / "random", **save)
    return folder / "random"


def tables_of(model):
    return [module for module in model.modules() if isinstance(module, DiskEmbedding)]


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("cache_rows", [0, 5])
def test_logits_and_text_are_those_of_tables_in_memory(folder, cache_rows):
    in_ram = engram.load(folder, tables="ram")
    on_disk = engram.load(folder, tables="disk", cache_rows=cache_rows)
    assert len(tables_of(on_disk)) == 2
    for _ in range(2):
        assert torch.equal(logits(on_disk), logits(in_ram))
    for options in ({}, {"num_beams": 3}, {"cache_implementation": "static"}):
        texts = [
            model.generate(IDS, max_new_tokens=6, do_sample=False, pad_token_id=2, **options)
            for model in (on_disk, in_ram)
        ]
        assert torch.equal(*texts)
    assert "table" not in "".join(on_disk.state_dict())
    names = {name for name, _ in in_ram.named_parameters()} - set(dict(on_disk.named_parameters()))
    assert len(names) == 2
    assert all(name.endswith("multi_head_embedding.embedding.weight") for name in names)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_dtypes(llama, dtype):
    on_disk = engram.load(llama, tables="disk", dtype=dtype)
    in_ram = engram.load(llama, dtype=dtype)
    assert torch.equal(logits(on_disk), logits(in_ram))
    for one in (on_disk, in_ram):
        one.to(torch.bfloat16)
    if dtype != "float16":  # a table in memory has been rounded twice by now
        assert torch.equal(logits(on_disk), logits(in_ram))
    assert all(table.stored_dtype == torch.float32 for table in tables_of(on_disk))


def test_a_checkpoint_in_bfloat16(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", torch.bfloat16)
    attached = tiny.attached_model(base, tmp_path / "attached", init="paper")
    on_disk = engram.load(attached, tables="disk")
    assert torch.equal(logits(on_disk), logits(engram.load(attached)))
    assert all(table.stored_dtype == torch.bfloat16 for table in tables_of(on_disk))
    wide = engram.load(attached, tables="disk", dtype="float32")
    assert torch.equal(logits(wide), logits(engram.load(attached, dtype="float32")))


def test_auto_classes_take_the_same_options(llama):
    import engram.hf

    model = AutoModelForCausalLM.from_pretrained(llama, tables="disk", cache_rows=9)
    assert [table.source.lines for table in tables_of(model)] == [9, 9]
    assert torch.equal(logits(model), logits(engram.load(llama)))


def test_no_table_is_reported_as_left_over(llama, caplog):
    from transformers.utils import logging

    logging.enable_propagation()
    engram.load(llama, tables="disk")
    logging.disable_propagation()
    assert "multi_head_embedding" not in caplog.text


def test_an_adapter(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base")
    attach.attach(base, tiny.memory_config(), tmp_path / "adapter", init="paper", adapter=True)
    model = engram.load(base, tmp_path / "adapter", tables="disk")
    assert torch.equal(logits(model), logits(engram.load(base, tmp_path / "adapter")))
    # The folder that joined them is gone.
    again = pickle.loads(pickle.dumps(tables_of(model)[0]))
    assert torch.equal(again(torch.arange(9)), tables_of(model)[0](torch.arange(9)))


def test_copies_of_the_model(llama):
    model = engram.load(llama, tables="disk", cache_rows=50)
    expected = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)


def test_rows_of_every_layer_are_asked_for_once_ids_are_known(llama, monkeypatch):
    model = engram.load(llama, tables="disk")
    asked, seen = [], []
    for table in tables_of(model):
        name = table.file.path
        monkeypatch.setattr(
            table.file, "ask", lambda ids, name=name: asked.append((name, ids.tolist()))
        )
        table.register_forward_pre_hook(
            lambda module, args: seen.append((module.file.path, args[0].flatten().tolist()))
        )
    order = []
    layer = model.get_decoder().engram_layers[0]
    layer.register_forward_pre_hook(lambda module, args: order.append(len(asked)))
    logits(model, IDS[:, :5])
    assert order == [2]
    assert asked[:2] == seen
    assert [len(ids) for _, ids in seen] == [2 * 5 * 6] * 2


def test_layers_in_other_places(llama, tmp_path):
    """What is offloaded is brought for each call; the table is where it was."""
    rest = ["embed_tokens", "norm", "rotary_emb", "layers.0"]
    places = {"lm_head": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    places |= {f"model.{name}": "cpu" for name in rest}
    model = engram.load(llama, tables="disk", device_map=places, offload_folder=tmp_path)
    assert model.hf_device_map["model.layers.1"] == "disk"
    assert torch.equal(logits(model), logits(engram.load(llama)))


def test_training_is_refused_unless_the_tables_are_frozen(llama):
    model = engram.load(llama, tables="disk")
    out = model(IDS).logits
    with pytest.raises(LayoutError, match="cannot be trained"):
        out.sum().backward()
    model.zero_grad()  # of the layers behind the memory
    model.train()
    with pytest.raises(LayoutError, match='tables="ram"'):
        model(IDS)
    for table in tables_of(model):
        table.requires_grad_(False)
    in_ram = engram.load(llama).train()
    for one in (model, in_ram):
        one(input_ids=IDS, labels=IDS).loss.backward()
    expected = dict(in_ram.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name].grad), name


def test_a_frozen_model_needs_no_more(llama):
    model = engram.load(llama, tables="disk").requires_grad_(False)
    assert not model.train()(IDS).logits.requires_grad


def test_saved_with_its_tables(folder, tmp_path):
    model = engram.load(folder, tables="disk")
    with torch.no_grad():
        model.get_decoder().engram_layers[1].engram.value_proj.weight.mul_(2)
    model.save_pretrained(tmp_path / "saved")
    again = engram.load(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(logits(engram.load(tmp_path / "saved", tables="disk")), logits(model))
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    stored = [load_file(file) for file in sorted((tmp_path / "saved").glob("*.safetensors"))]
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert {name for tensors in stored for name in tensors} == set(index["weight_map"])
    values = [value for tensors in stored for value in tensors.values()]
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in values)


def test_saved_in_shards_and_over_itself(llama, tmp_path):
    model = engram.load(llama, tables="disk")
    expected = logits(model)
    model.save_pretrained(tmp_path / "saved", max_shard_size="60KB")
    again = engram.load(tmp_path / "saved", tables="disk")
    again.save_pretrained(tmp_path / "saved", max_shard_size="60KB")
    assert torch.equal(logits(again), expected)
    assert torch.equal(logits(engram.load(tmp_path / "saved")), expected)


@pytest.mark.parametrize("option", ["push_to_hub", "variant", "distributed_checkpoint"])
def test_saving_that_would_lose_the_tables_is_refused(llama, tmp_path, option):
    model = engram.load(llama, tables="disk")
    with pytest.raises(InputError, match=option):
        model.save_pretrained(tmp_path / "saved", **{option: "x"})
    assert not (tmp_path / "saved").exists()


def test_options_that_make_no_sense(llama):
    with pytest.raises(UsageError, match="gpu"):
        engram.load(llama, tables="gpu")
    with pytest.raises(UsageError, match="^tables must be one of 'ram', 'disk'") as refusal:
        engram.load(llama, tables="dsik")
    assert "cache_rows" not in str(refusal.value)
    with pytest.raises(UsageError, match='^cache_rows must be 0 with tables="ram", got 5'):
        engram.load(llama, cache_rows=5)
    for tables in ("ram", "disk"):
        with pytest.raises(UsageError, match="^cache_rows must be >= 0, got -1"):
            engram.load(llama, tables=tables, cache_rows=-1)


def rewritten(llama, folder, change):
    """Copy a checkpoint in one file, with its tensors changed."""
    tensors = {}
    for file in llama.glob("*.safetensors"):
        tensors |= load_file(file)
    change(tensors, "model.layers.1.engram.multi_head_embedding.embedding.weight")
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((llama / "config.json").read_bytes())
    return folder


def test_a_missing_table_fails_the_load(llama, tmp_path):
    folder = rewritten(llama, tmp_path / "x", lambda tensors, name: tensors.pop(name))
    with pytest.raises(MismatchError, match="no table for layer 1"):
        engram.load(folder, tables="disk")


def test_a_table_of_another_shape_fails_the_load(llama, tmp_path):
    def cut(tensors, name):
        tensors[name] = tensors[name][:-1].clone()

    folder = rewritten(llama, tmp_path / "x", cut)
    with pytest.raises(MismatchError, match="rows"):
        engram.load(folder, tables="disk")


def test_a_table_of_another_kind_fails_the_load(llama, tmp_path):
    def round_off(tensors, name):
        tensors[name] = tensors[name].to(torch.int8)

    folder = rewritten(llama, tmp_path / "x", round_off)
    with pytest.raises(LayoutError, match="I8"):
        engram.load(folder, tables="disk")


def test_a_missing_dense_weight_fails_the_load(llama, tmp_path):
    def drop(tensors, name):
        del tensors["model.layers.1.engram.value_proj.weight"]

    folder = rewritten(llama, tmp_path / "x", drop)
    with pytest.raises(MismatchError, match="value_proj"):
        engram.load(folder, tables="disk")


def test_a_truncated_file_fails_the_load(llama, tmp_path):
    folder = rewritten(llama, tmp_path / "x", lambda tensors, name: None)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000 + file.seek(0, 2) // 2)
    with pytest.raises(CorruptFileError):
        engram.load(folder, tables="disk")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError):
        engram.load(folder, tables="disk")


def test_tables_larger_than_memory(tmp_path, monkeypatch):
    """64 GB by name; only what is read of it takes up memory."""
    base = tiny.base_model("llama", tmp_path / "base")
    config = tiny.memory_config(engram_table_size=[2 * 670_000_000] * 3, layer_ids=[2])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12))
    plan = attach.attach(base, config, tmp_path / "big", init="paper", dry_run=True).plan
    file, (table,) = plan.shards[-1]
    assert table.size_bytes > 64e9
    plan.shards[-1] = (file, [dataclasses.replace(table, chunks=[])])
    attach.write(plan)
    with (tmp_path / "big" / file).open("r+b") as shard:
        shard.truncate(shard.seek(0, 2) + table.size_bytes)
    code = f"""
import resource, torch, engram, engram.hf
from transformers import LlamaForCausalLM
def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = used()
model = engram.load({str(tmp_path / "big")!r}, tables="disk", cache_rows=1000)
ids = torch.randint(3, {tiny.VOCAB}, (2, 60))
assert model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=2).shape == (2, 65)
assert used() - before < 400e6, used() - before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_generation_config_of_its_own_holds_no_table(llama, tmp_path):
    # Released models state theirs, while that of a model made from a config says so.
    folder = shutil.copytree(llama, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    model = engram.load(folder, tables="disk")
    assert model.generation_config.temperature == 0.6
    assert not hasattr(model.generation_config, "engram_tables")
    assert torch.equal(logits(model), logits(engram.load(folder)))

"""Attaching: base untouched, memory complete, folder whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import engram
from engram import EngramTokenizer
from engram.checkpoints.attach import attach
from engram.errors import (
    CorruptFileError,
    DoesNotFitError,
    InputError,
    LayoutError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from engram.hf.calls import MemoryLayer
from support import tiny
from support.near import assert_near
from support.paths import BPE


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folders(request, tmp_path_factory):
    return tiny.family_folders(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


IDS = torch.tensor(
    [[5, 9, 2, 31, 17, 200, 63, 8, 9, 2, 31], [4, 400, 543, 0, 1, 2, 3, 3, 3, 77, 8]]
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_bases_bit_for_bit(folders, dtype):
    base, attached = folders
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model = engram.load(attached, dtype=dtype)
    assert torch.equal(plain(IDS).logits, model(IDS).logits)
    assert model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_first_values_are_the_same_in_every_dtype(llama, tmp_path, dtype):
    stored = []
    for name in ("float32", dtype):
        made = tiny.attached_model(llama, tmp_path / name, dtype=name, adapter=True)
        stored.append(load_file(made / "engram-00001-of-00001.safetensors"))
    (name,) = (name for name in stored[0] if "layers.1" in name and "embedding.weight" in name)
    wide, other = (tensors[name] for tensors in stored)
    assert other.dtype == getattr(torch, dtype)
    precision = max(torch.finfo(it.dtype).eps for it in (wide, other))
    torch.testing.assert_close(other.double(), wide.double(), rtol=precision, atol=1e-6)
    assert wide.std() > 0.9


def test_base_files_are_unchanged_and_every_tensor_is_indexed(folders):
    base, attached = folders
    assert sha256(attached / "model-00001-of-00001.safetensors") == sha256(
        base / "model.safetensors"
    )
    assert not (attached / "model.safetensors").exists()
    index = json.loads((attached / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {name for file in set(index.values()) for name in load_file(attached / file)}
    assert stored == set(index)
    assert json.loads((attached / "engram_base" / "config.json").read_text()) == json.loads(
        (base / "config.json").read_text()
    )


def test_every_constant_is_right_after_from_pretrained(folders):
    _, attached = folders
    config = tiny.memory_config()
    tokenizer = EngramTokenizer(config, str(BPE))
    model = engram.load(attached)
    settings = model.config.engram
    assert settings["addresses"] == tokenizer.addresses.to_dict()
    first = model.get_decoder().engram_layers[2].engram
    assert np.array_equal(first.token_map.numpy(), tokenizer.addresses.token_map)
    for layer in tokenizer.addresses.layers:
        module = model.get_decoder().engram_layers[layer.layer_id].engram
        assert module.multi_head_embedding.offsets.tolist() == list(layer.offsets)
        assert module.multi_head_embedding.embedding.weight.shape == (layer.stored_rows, 4)
        assert module.multi_head_embedding.embedding.weight.std().item() == pytest.approx(
            1, abs=0.05
        )
        assert not module.value_proj.weight.any()
        assert not module.conv.weight.any()
        assert module.key_proj.weight.std() > 0.01
        assert (module.norm_key == 1).all()


def test_the_memory_is_the_same_module_as_standing_alone(folders):
    """Wired, a layer sees its input + EngramModule(input, compress_and_hash ids)."""
    _, attached = folders
    model = tiny.randomise(engram.load(attached))
    tokenizer = EngramTokenizer(tiny.memory_config(), str(BPE))
    hash_ids = tokenizer.compress_and_hash(IDS, return_tensors="pt")
    for layer_id in (1, 2):
        layer = model.get_decoder().engram_layers[layer_id]
        calls = []
        handle = layer.register_forward_hook(
            lambda module, args, kwargs, output, calls=calls: calls.append((args, kwargs, output)),
            with_kwargs=True,
        )
        model(IDS, use_cache=False)
        handle.remove()
        (hidden, *args), kwargs, output = calls[0]
        added = layer.engram(hidden, hash_ids)
        assert added.abs().max() > 0.01
        kwargs.pop("engram", None)
        again = super(MemoryLayer, layer).forward(hidden + added, *args, **kwargs)
        as_tensor = [item if torch.is_tensor(item) else item[0] for item in (again, output)]
        assert_near(*as_tensor)


def test_auto_classes_load_it(folders):
    _, attached = folders
    import engram.hf

    model = AutoModelForCausalLM.from_pretrained(attached)
    assert type(model).__name__.startswith("Engram")
    assert torch.equal(model(IDS).logits, engram.load(attached)(IDS).logits)


def test_save_and_load_again(folders, tmp_path):
    _, attached = folders
    model = tiny.randomise(engram.load(attached))
    model.save_pretrained(tmp_path / "saved")
    again = engram.load(tmp_path / "saved")
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["auto_map"] == json.loads((attached / "config.json").read_text())["auto_map"]
    assert (tmp_path / "saved" / "modeling_engram.py").read_text() == (
        attached / "modeling_engram.py"
    ).read_text()


def test_everything_is_there_when_saving_uploads(llama, tmp_path, monkeypatch):
    uploads = []

    def push(self, repo_id, **options):
        uploads.append((repo_id, options, {p.name for p in (tmp_path / "saved").iterdir()}))

    monkeypatch.setattr(PreTrainedModel, "push_to_hub", push)
    model = engram.load(tiny.attached_model(llama, tmp_path / "attached"))
    for options in ({}, {"repo_id": "me/mine", "private": True, "commit_message": "trained"}):
        model.save_pretrained(tmp_path / "saved", push_to_hub=True, **options)
    wanted = {"config.json", "model.safetensors", "modeling_engram.py"}
    assert all(wanted <= files for _, _, files in uploads)
    assert uploads[0][:2] == ("saved", {})
    assert uploads[1][:2] == ("me/mine", {"private": True, "commit_message": "trained"})


def test_bytes_do_not_depend_on_the_run(llama, tmp_path):
    one = tiny.attached_model(llama, tmp_path / "one")
    two = tiny.attached_model(llama, tmp_path / "two")
    for file in sorted(path.name for path in one.iterdir() if path.is_file()):
        assert sha256(one / file) == sha256(two / file), file


def test_links_share_the_bases_bytes(llama, tmp_path):
    attached = tiny.attached_model(llama, tmp_path / "linked", link=True)
    assert (attached / "model-00001-of-00001.safetensors").samefile(llama / "model.safetensors")


def test_sharded_base(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", max_shard_size="60KB")
    shards = sorted(path.name for path in base.glob("model-*.safetensors"))
    assert len(shards) > 1
    attached = tiny.attached_model(base, tmp_path / "attached")
    assert all(sha256(base / name) == sha256(attached / name) for name in shards)
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert torch.equal(plain(IDS).logits, engram.load(attached)(IDS).logits)


def test_tensor_names_without_the_models_prefix(tmp_path):
    """GPT-2 on the hub is stored as h.0..., without transformer. before it."""
    base = tiny.base_model("gpt2", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(base)
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    attached = tiny.attached_model(base, tmp_path / "attached")
    model = engram.load(attached)
    assert torch.equal(plain(IDS).logits, model(IDS).logits)


def test_paper_start_changes_the_logits(llama, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(llama)
    model = engram.load(tiny.attached_model(llama, tmp_path / "attached", init="paper"))
    assert (plain(IDS).logits - model(IDS).logits).abs().max() > 1e-3


def test_a_missing_memory_tensor_fails_the_load(llama, tmp_path):
    attached = tiny.attached_model(llama, tmp_path / "attached")
    shard = attached / "engram-00001-of-00001.safetensors"
    tensors = load_file(shard)
    del tensors["model.layers.1.engram.value_proj.weight"]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="value_proj.weight"):
        engram.load(attached)


def test_another_token_map_fails_the_load(llama, tmp_path):
    attached = tiny.attached_model(llama, tmp_path / "attached")
    shard = attached / "engram-00001-of-00001.safetensors"
    tensors = load_file(shard)
    tensors["model.layers.2.engram.token_map"][7] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="token map"):
        engram.load(attached)


def test_changed_constants_fail_the_load(llama, tmp_path):
    attached = tiny.attached_model(llama, tmp_path / "attached")
    config = json.loads((attached / "config.json").read_text())
    config["engram"]["addresses"]["layers"][0]["multipliers"][0] = "12345"
    (attached / "config.json").write_text(json.dumps(config))
    with pytest.raises(MismatchError, match="fingerprint"):
        engram.load(attached)


def test_layers_past_the_depth_are_refused(llama, tmp_path):
    with pytest.raises(LayoutError, match="must be in 0..2, "):
        attach.attach(llama, tiny.memory_config(layer_ids=[1, 4]), tmp_path / "x")


def test_another_width_is_refused(llama, tmp_path):
    with pytest.raises(LayoutError, match="must be 32, .* got 64"):
        attach.attach(llama, tiny.memory_config(hidden_size=64), tmp_path / "x")


def test_other_streams_are_refused(llama, tmp_path):
    with pytest.raises(LayoutError, match="must be 1, .* got 4"):
        attach.attach(llama, tiny.memory_config(hc_mult=4), tmp_path / "x")


def test_another_tokenizer_is_refused(llama, tmp_path):
    with pytest.raises(MismatchError, match="544"):
        attach.attach(llama, tiny.memory_config(engram_vocab_size=545), tmp_path / "x")


def test_an_attached_base_is_refused(folders, tmp_path):
    _, attached = folders
    with pytest.raises(LayoutError, match="has a memory already"):
        attach.attach(attached, tiny.memory_config(), tmp_path / "x")


def test_pickled_weights_are_refused(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(LayoutError, match="pickled"):
        attach.attach(base, tiny.memory_config(), tmp_path / "x")


def test_truncated_base_is_refused(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    content = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(CorruptFileError):
        attach.attach(base, tiny.memory_config(), tmp_path / "x")


def test_index_that_leaves_the_folder_is_refused(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    (base / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptFileError, match="outside"):
        attach.attach(base, tiny.memory_config(), tmp_path / "x")


def test_missing_model_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nothing-here"):
        attach.attach(tmp_path / "nothing-here", tiny.memory_config(), tmp_path / "x")


def test_output_that_is_there_is_kept(llama, tmp_path):
    plan = attach.attach(llama, tiny.memory_config(), tmp_path / "out", dry_run=True).plan
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="there already"):
        attach.write(plan)
    with pytest.raises(InputError, match="not replaced"):
        attach.write(plan, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_overwrite_replaces_an_attached_folder(llama, tmp_path):
    tiny.attached_model(llama, tmp_path / "out")
    attach.attach(llama, tiny.memory_config(seed=9), tmp_path / "out", overwrite=True)
    assert engram.load(tmp_path / "out").config.engram["config"]["seed"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_keeps_what_the_user_put_there(llama, tmp_path):
    tiny.attached_model(llama, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"notes\.txt"):
        attach.attach(llama, tiny.memory_config(seed=9), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_write_leaves_nothing(llama, tmp_path):
    plan = attach.attach(llama, tiny.memory_config(), tmp_path / "out", dry_run=True).plan

    def stop(done: int, total: int | None) -> None:
        if done > plan.written_bytes - plan.added_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach.write(plan, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(llama, tmp_path, monkeypatch):
    plan = attach.attach(llama, tiny.memory_config(), tmp_path / "out", dry_run=True).plan
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DoesNotFitError, match="1000 B free"):
        attach.write(plan)
    assert list(tmp_path.iterdir()) == []


def test_comparing_with_the_base_shows_no_bar_and_tells_of_a_difference(llama, tmp_path, capfd):
    make = partial(attach.attach, llama, tiny.memory_config(), verify=True)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    same = make(tmp_path / "same")
    other = make(tmp_path / "other", init="paper")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled() == bars
    assert repr(same).endswith(f"{same.plan.added_params:,} parameters added>")
    assert f", logits differ by {other.max_logit_difference:.3g}>" in repr(other)
    with pytest.raises(UsageError, match="does not go with --dry-run"):
        make(tmp_path / "planned", dry_run=True)

"""Tokenizers named by path: right on any machine, and no folder of this one is written down."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM

import engram.hf  # noqa: F401  registers our types
from engram.backbone import load_backbone
from engram.checkpoints.attach import attach
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.config.config_file import read_config, write_config
from engram.config.templates import load_config
from engram.config.tokenizer_path import explicit, read_from, write_to
from engram.sizing.new_config import new_config
from engram.sizing.shape import memory_shape
from support import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


def test_a_config_moves_with_its_model(base, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(base, here / "model")
    (here / "configs").mkdir()
    monkeypatch.chdir(here)
    for name, file in (("./model", "memory.yaml"), ("./model", "configs/memory.yaml")):
        config = memory_shape(load_backbone(name))
        write_config(file, config)
        assert str(tmp_path) not in (here / file).read_text()
    assert read_config("configs/memory.yaml").tokenizer == "../model"
    moved = here.rename(tmp_path / "there")
    monkeypatch.chdir("/")
    for file in ("memory.yaml", "configs/memory.yaml"):
        assert load_config(moved / file).tokenizer == str(moved / "model")


def test_config_new_states_what_the_user_wrote(base, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert new_config("tiny", backbone=load_backbone(f"./{base.name}")).tokenizer == "./base"
    assert new_config("tiny", backbone=load_backbone(base)).tokenizer == str(base)
    assert new_config("tiny", backbone=load_backbone("gpt2")).tokenizer == "openai-community/gpt2"


@pytest.mark.parametrize("name", ["gpt2", "org/model", "package:thing", "/data/model"])
def test_other_names_stay_as_they_are(name, tmp_path):
    assert write_to(name, tmp_path) == read_from(name, tmp_path) == name


def test_a_folder_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert explicit((tmp_path / "org" / "model").relative_to(tmp_path)) == "./org/model"
    assert explicit(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("adapter", [False, True])
def test_no_folder_of_this_machine_is_pushed(base, tmp_path, adapter):
    config = replace(tiny.memory_config(), tokenizer=str(base))
    folder = tmp_path / "made"
    attach.attach(base, config, folder, adapter=adapter)
    for file in folder.rglob("*"):
        if file.is_file():
            assert str(base.parent).encode() not in file.read_bytes(), file
    file = folder / ("engram_adapter.json" if adapter else "config.json")
    stated = json.loads(file.read_text())
    stated = stated["model_config"] if adapter else stated
    assert stated["engram"]["config"]["tokenizer"] == "."
    assert inspect_checkpoint(folder).config.tokenizer == str(folder)


def test_a_model_from_its_config_finds_the_folders_own_tokenizer(base, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    attach.attach(base, replace(tiny.memory_config(), tokenizer=str(base)), folder)
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    from transformers import AutoConfig

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(moved))
    model.check_token_map()


def test_a_config_in_a_linked_folder_is_right_by_every_path(base, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "linked").symlink_to("real/inner")
    monkeypatch.chdir(tmp_path)
    write_config("linked/memory.yaml", memory_shape(load_backbone("./model")))
    for folder in ("linked", "real/inner", str(tmp_path / "linked")):
        found = load_config(f"{folder}/memory.yaml").tokenizer
        assert (tmp_path / "model").samefile(found)


def test_a_folder_that_is_set_as_tokenizer_is_a_path(base, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    write_config("configs/memory.yaml", new_config("tiny", settings={"tokenizer": "model"}))
    assert read_config("configs/memory.yaml").tokenizer == "../model"
    assert new_config("tiny", settings={"tokenizer": "org/model"}).tokenizer == "org/model"

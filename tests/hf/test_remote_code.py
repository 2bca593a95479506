"""Bases that are code in their folder: never run unasked, and complete once they are trusted."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationMixin

import engram
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.detach import detach
from engram.checkpoints.attach.proof import max_logit_difference
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.verify.verify import verify
from engram.config.config_file import write_config
from engram.errors import InputError
from engram.hf.compat import cache_name
from support import tiny
from support.near import assert_near
from support.remote import AUTO_MAP, CODE, remote_base

IDS = torch.tensor(
    [[5, 9, 2, 31, 17, 200, 63, 8, 9, 2, 31], [4, 400, 543, 0, 1, 2, 3, 3, 3, 77, 8]]
)
OPTIONS = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return remote_base(tmp_path_factory.mktemp("remote") / "base")


@pytest.fixture(scope="module")
def attached(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote") / "attached"
    return tiny.attached_model(base, folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def model(attached):
    loaded = engram.load(attached, trust_remote_code=True)
    return tiny.randomise(loaded).requires_grad_(False)


def files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_code_is_not_run_unasked(tmp_path, capsys):
    trace = tmp_path / "it-ran"
    base = remote_base(tmp_path / "base", trace)
    with pytest.raises(InputError, match="would run the code") as caught:
        attach.attach(base, tiny.memory_config(), tmp_path / "out")
    assert "--trust-remote-code" in caught.value.hint
    folder = tiny.attached_model(base, tmp_path / "attached", trust_remote_code=True)
    assert trace.exists()
    trace.unlink()
    with pytest.raises(InputError, match="would run the code") as caught:
        engram.load(folder)
    assert "trust_remote_code=True" in caught.value.hint
    found = {check.name: check for check in verify(folder)}
    assert found["load"].ok is None
    assert "--trust-remote-code" in found["load"].detail
    assert found["base weights"].ok is None
    assert all(check.ok for name, check in found.items() if name not in ("load", "base weights"))
    assert not trace.exists()


def test_the_flag_of_the_command(base, tmp_path, forks):
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    words = ["attach", base, "-c", "memory.yaml", "-o", "out"]
    refused = forks.run(words, tmp_path)
    assert refused.code == 3
    assert "--trust-remote-code" in refused.stderr
    done = forks.run([*words, "--trust-remote-code", "--verify", "--json"], tmp_path)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["max_logit_difference"] == 0


def test_identity_and_files(base, attached):
    assert max_logit_difference(base, attached, trust_remote_code=True) == 0
    assert all((attached / name).read_text() == (base / name).read_text() for name in CODE)
    config = json.loads((attached / "config.json").read_text())
    assert config["model_type"] == "engram_pebble"
    assert config["auto_map"] == {
        "AutoConfig": "modeling_engram.EngramPebbleConfig",
        "AutoModelForCausalLM": "modeling_engram.EngramPebbleForCausalLM",
    }
    assert config["engram"]["base"]["auto_map"] == AUTO_MAP


def test_code_that_names_its_model_alone_states_its_config_there(base, attached, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["auto_map"]["AutoConfig"]
    (copy / "config.json").write_text(json.dumps(config))
    folder = tiny.attached_model(copy, tmp_path / "attached", trust_remote_code=True)
    whole, alone = (engram.load(it, trust_remote_code=True) for it in (attached, folder))
    with torch.no_grad():
        assert torch.equal(whole(IDS).logits, alone(IDS).logits)


def test_auto_classes_load_it_in_a_process_that_knows_nothing(
    attached, model, forks_without_the_toolkit, tmp_path
):
    model.save_pretrained(tmp_path / "saved")
    code = (
        "import sys, torch\n"
        "assert 'engram' not in sys.modules\n"
        "from transformers import AutoModelForCausalLM\n"
        "ids = torch.load('tensor.pt')\n"
        "model = AutoModelForCausalLM.from_pretrained('saved', trust_remote_code=True)\n"
        "torch.save(model(ids).logits, 'tensor.pt')\n"
    )
    torch.save(IDS, tmp_path / "tensor.pt")
    done = forks_without_the_toolkit.run([code], tmp_path, is_program=True)
    assert done.code == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "tensor.pt"), model(IDS).logits)


def test_save_and_load_again(attached, model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    saved, before = files(tmp_path / "saved"), files(attached)
    for name in (*CODE, "modeling_engram.py"):
        assert saved[name] == before[name], name
    config = json.loads(saved["config.json"])
    assert config["auto_map"] == json.loads(before["config.json"])["auto_map"]
    again = engram.load(tmp_path / "saved", trust_remote_code=True)
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    by_auto = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert torch.equal(model(IDS).logits, by_auto(IDS).logits)
    by_auto.save_pretrained(tmp_path / "twice")
    assert files(tmp_path / "twice").keys() == saved.keys()
    twice = engram.load(tmp_path / "twice", trust_remote_code=True)
    assert torch.equal(model(IDS).logits, twice(IDS).logits)


def test_it_can_be_pickled(model):
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    assert torch.equal(model(IDS).logits, again(IDS).logits)


def test_detach_gives_the_base_back(base, attached, tmp_path):
    detach(attached, tmp_path / "again")
    assert files(tmp_path / "again") == files(base)


def test_cached_equals_full(model):
    full = model(input_ids=IDS, use_cache=False).logits
    past, logits = None, []
    for piece in IDS.split([4, 1, 6], dim=1):
        out = model(input_ids=piece, past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits.append(out.logits)
    assert_near(torch.cat(logits, dim=1), full, 128)
    other = tiny.randomise(model, seed=2)
    assert (other(input_ids=IDS, use_cache=False).logits - full).abs().max() > 1e-2
    tiny.randomise(model)


def test_greedy_generation_of_uneven_rows(model):
    short = IDS[:1, :6]
    batch = torch.cat([torch.cat([torch.full((1, 5), 2), short], dim=1), IDS[1:]])
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    together = model.generate(batch, attention_mask=mask, **OPTIONS)
    # Said, because else transformers takes every pad token for padding.
    options = [{"attention_mask": torch.ones_like(ids), **OPTIONS} for ids in (short, IDS[1:])]
    assert torch.equal(together[:1, 5:], model.generate(short, use_cache=False, **options[0]))
    assert torch.equal(together[1:], model.generate(IDS[1:], use_cache=False, **options[1]))


def test_verify_runs_it_when_trusted(attached):
    found = {check.name: check for check in verify(attached, trust_remote_code=True)}
    assert found["load"].detail.startswith("EngramPebbleForCausalLM")
    assert [name for name, check in found.items() if check.ok is False] == []
    assert found["cached = full"].ok
    assert found["uneven batch"].ok
    # From transformers 5.24 on `generate` itself hands such code a cache under its new name.
    alone = cache_name(GenerationMixin.prepare_inputs_for_generation) == "past_key_values"
    assert found["assisted"].ok is (True if alone else None)


def test_an_adapter(base, model, attached, tmp_path):
    folder = tiny.attached_model(base, tmp_path / "adapter", adapter=True, trust_remote_code=True)
    joined = engram.load(base, folder, trust_remote_code=True)
    plain = engram.load(attached, trust_remote_code=True)
    assert torch.equal(joined(IDS).logits, plain(IDS).logits)
    with pytest.raises(InputError, match="would run the code"):
        engram.load(base, folder)


def test_convert_to_another_dtype_and_onto_the_base(base, attached, tmp_path):
    convert(attached, tmp_path / "small", dtype="bfloat16")
    small = engram.load(tmp_path / "small", trust_remote_code=True, dtype=torch.float32)
    assert torch.isfinite(small(IDS).logits).all()
    convert(attached, tmp_path / "published", "demo")
    with pytest.raises(InputError, match="would run the code"):
        convert(tmp_path / "published", tmp_path / "whole", base=base, dry_run=True)
    convert(tmp_path / "published", tmp_path / "whole", base=base, trust_remote_code=True)
    name = "model.layers.1.engram.multi_head_embedding.embedding.weight"
    tables = [
        load_file(folder / "engram-00001-of-00001.safetensors")[name]
        for folder in (attached, tmp_path / "whole")
    ]
    assert torch.equal(*tables)


def test_code_in_another_repository_is_refused(base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = "someone/else--modeling.Pebble"
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="another repository"):
        attach.attach(copy, tiny.memory_config(), tmp_path / "out", trust_remote_code=True)


def test_what_stands_in_a_config_does_not_become_code(tmp_path, tmp_path_factory):
    """A folder that was loaded without trust is saved again, with a module to be trusted."""
    model = engram.load(tiny.family_folders("llama", tmp_path_factory)[1])
    settings = model.config.engram
    stated = {"AutoModelForCausalLM": "x import y\nexec(y)\nfrom z.C"}
    model.config.engram = {**settings, "base": {**settings["base"], "auto_map": stated}}
    with pytest.raises(InputError, match="beside the weights"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))


def test_the_flag_does_nothing_for_a_base_of_transformers(tmp_path, tmp_path_factory):
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    folder = tiny.attached_model(base, tmp_path / "attached", trust_remote_code=True)
    assert "auto_map" not in json.loads((folder / "config.json").read_text())["engram"]["base"]
    assert max_logit_difference(base, folder, trust_remote_code=True) == 0

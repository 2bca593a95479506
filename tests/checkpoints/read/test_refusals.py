"""Checkpoints that must not run as they are: refused on loading, named by `engram verify`."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from sympy import nextprime
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

import engram
from engram.addressing.addresses import Addresses
from engram.checkpoints.verify.verify import verify
from engram.errors import DependencyError, InputError, LayoutError, MismatchError
from support import tiny
from support.checked import failed, verdicts

SHARD = "engram-00001-of-00001.safetensors"
TABLE = "model.layers.1.engram.multi_head_embedding.embedding.weight"
PLACES = ["ram", "disk"]


@pytest.fixture
def attached(tmp_path, tmp_path_factory):
    """A folder of one's own to break."""
    return shutil.copytree(
        tiny.family_folders("llama", tmp_path_factory)[1], tmp_path / "attached", symlinks=True
    )


def edit_config(folder, edit):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_shard(folder, edit):
    tensors = load_file(folder / SHARD)
    edit(tensors)
    save_file(tensors, folder / SHARD, metadata={"format": "pt"})


def test_a_changed_tokenizer(attached):
    text = json.loads((attached / "tokenizer.json").read_text())
    vocab = text["model"]["vocab"]
    one, other = [token for token in vocab if token.isalpha()][40:42]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    text["model"]["merges"] = []
    (attached / "tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(MismatchError, match="the tokenizer is not the one"):
        engram.load(attached)
    with pytest.raises(MismatchError, match="the tokenizer is not the one"):
        AutoModelForCausalLM.from_pretrained(attached)
    assert list(failed(attached)) == ["tokenizer", "small files"]


def test_another_tokenizer(attached, local_word):
    for file in local_word.iterdir():
        shutil.copyfile(file, attached / file.name)
    with pytest.raises(MismatchError, match="its 23 ids compress to"):
        engram.load(attached)
    assert "its 23 ids compress to" in failed(attached)["tokenizer"]


def test_an_adapter_whose_base_got_another_tokenizer(tmp_path, tmp_path_factory, local_word):
    base = shutil.copytree(tiny.family_folders("llama", tmp_path_factory)[0], tmp_path / "base")
    adapter = tiny.attached_model(base, tmp_path / "adapter", adapter=True)
    engram.load(base, adapter)
    for file in local_word.iterdir():
        shutil.copyfile(file, base / file.name)
    with pytest.raises(MismatchError, match="its 23 ids compress to"):
        engram.load(base, adapter)


def test_tokens_that_were_added_since_are_no_change(attached):
    tokenizer = Tokenizer.from_file(str(attached / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|new|>", "<|newer|>"])
    tokenizer.save(str(attached / "tokenizer.json"))
    engram.load(attached)
    assert failed(attached) == {}
    detail = verdicts(attached)["tokenizer"].detail
    assert detail == "the tokenizer gives the same token map, and 2 tokens that were added since"
    assert "tokens were added to tokenizer.json" in verdicts(attached)["small files"].detail


def test_a_folder_without_a_tokenizer_loads(attached):
    (attached / "tokenizer.json").unlink()
    assert torch.isfinite(engram.load(attached)(torch.tensor([[3, 4, 5]])).logits).all()


@pytest.mark.parametrize("part", ["multipliers", "primes"])
def test_changed_constants(attached, part):
    def edit(config):
        layer = config["engram"]["addresses"]["layers"][0]
        layer[part] = layer[part][::-1]

    edit_config(attached, edit)
    with pytest.raises(MismatchError, match="fingerprint"):
        engram.load(attached)
    assert "fingerprint" in failed(attached)["settings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda primes: [primes[0] + 1, *primes[1:]], "is not prime"),
        (lambda primes: [*primes[:-1], nextprime(primes[-1])], "is not the next prime that is"),
        (lambda primes: primes[::-1], "is not the next prime that is free"),
    ],
)
def test_primes_that_only_their_fingerprint_vouches_for(attached, monkeypatch, change, words):
    """Nothing but a witness finds them when the constants were changed with their fingerprint."""

    def edit(config):
        stored = config["engram"]["addresses"]
        layer = stored["layers"][0]
        layer["primes"][0] = change(layer["primes"][0])
        layer["stored_rows"] = sum(map(sum, layer["primes"]))
        with monkeypatch.context() as patch:
            patch.setattr(Addresses, "check", lambda *_: None)
            stored["fingerprint"] = Addresses.from_dict(stored).fingerprint

    edit_config(attached, edit)
    problems = failed(attached)
    assert "settings" not in problems
    assert "layer 2, order 2, head " in problems["sizes"]
    assert words in problems["sizes"]


@pytest.mark.parametrize("tables", PLACES)
def test_a_missing_table(attached, tables):
    edit_shard(attached, lambda tensors: tensors.pop(TABLE))
    index = attached / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    del names["weight_map"][TABLE]
    index.write_text(json.dumps(names))
    with pytest.raises(MismatchError, match="layer 1|layers.1"):
        engram.load(attached, tables=tables)
    assert failed(attached)["tensors"] == f"{TABLE} is missing"


@pytest.mark.parametrize("tables", PLACES)
@pytest.mark.parametrize("shape", ["rows", "width"])
def test_a_table_of_another_shape(attached, tables, shape):
    def edit(tensors):
        table = tensors[TABLE]
        tensors[TABLE] = (table[:-1] if shape == "rows" else table[:, :-1]).contiguous()

    edit_shard(attached, edit)
    with pytest.raises(MismatchError, match=r"1326(, | rows of )3|1325(, | rows of )4"):
        engram.load(attached, tables=tables)
    assert TABLE in failed(attached)["tensors"]


def test_a_tensor_of_the_base_of_another_shape(attached):
    def edit(config):
        config["intermediate_size"] = 47

    edit_config(attached, edit)
    with pytest.raises(MismatchError, match=r"is \[32, 48\], not \[32, 47\]"):
        engram.load(attached)
    engram.load(attached, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("tables", PLACES)
def test_layers_past_the_depth(attached, tables):
    def edit(config):
        config["num_hidden_layers"] = 2

    edit_config(attached, edit)
    with pytest.raises(LayoutError, match="must be in 0..1, "):
        engram.load(attached, tables=tables)


def test_engram_keys_without_the_toolkit(attached, forks_without_the_toolkit, tmp_path):
    """A process that never imports the toolkit gets an error from transformers."""
    code = "from transformers import AutoModelForCausalLM as auto\n"
    code += f"auto.from_pretrained({str(attached)!r}, trust_remote_code=False)"
    done = forks_without_the_toolkit.run([code], tmp_path, is_program=True)
    assert done.code == 70  # an error that nobody caught
    assert "engram_llama" in done.stderr or "custom code" in done.stderr


def test_engram_keys_that_the_config_does_not_wire(attached):
    def edit(config):
        del config["engram"]

    edit_config(attached, edit)
    with pytest.raises(LayoutError, match="has no memory"):
        engram.load(attached)
    with pytest.raises(MismatchError, match="has no memory"):
        AutoModelForCausalLM.from_pretrained(attached)
    with pytest.raises(InputError, match="has no memory"):
        verify(attached)


@pytest.mark.parametrize("read", [verify, engram.report])
def test_a_lone_file_of_a_memory_names_its_folder(attached, read):
    with pytest.raises(InputError, match="has no memory by its config") as caught:
        read(attached / SHARD)
    assert caught.value.hint.endswith(f": {attached}")


def test_a_seed_that_the_constants_were_not_drawn_with(attached):
    edit_config(attached, lambda config: config["engram"]["config"].update(seed=77))
    with pytest.raises(MismatchError, match="multipliers: entry 0 must be"):
        engram.load(attached)
    with pytest.raises(MismatchError, match="config.json: layer 2: multipliers: entry 0 must be"):
        engram.look_up(attached, "the Milky Way")
    assert [*failed(attached)] == ["constants"]


def test_embeddings_without_ids(attached):
    model = engram.load(attached)
    embedded = model.get_input_embeddings()(torch.tensor([[3, 4, 5]]))
    with pytest.raises(InputError, match="inputs_embeds alone") as caught:
        model(inputs_embeds=embedded)
    assert "engram_input_ids=" in caught.value.hint


def test_a_transformers_that_loads_weights_in_another_way(attached, monkeypatch):
    def load(model, files, state_dict=None):
        raise AssertionError("called all the same")

    monkeypatch.setattr(PreTrainedModel, "_load_pretrained_model", staticmethod(load))
    load_on_disk = partial(AutoModelForCausalLM.from_pretrained, attached, tables="disk")
    with pytest.raises(DependencyError, match=r"_load_pretrained_model\(model, state_dict, check"):
        load_on_disk()
    monkeypatch.delattr(PreTrainedModel, "_load_pretrained_model")
    with pytest.raises(DependencyError, match="has no attribute ._load_pretrained_model"):
        load_on_disk()
    with pytest.raises(DependencyError, match="_load_pretrained_model"):
        engram.load(attached, tables="disk")

"""Folders whose config or index someone else wrote: refused, and nothing is written."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest

import engram
from engram.addressing.addresses import Addresses
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.detach import detach
from engram.errors import (
    ConfigError,
    CorruptFileError,
    EngramError,
    InputError,
    LayoutError,
    MismatchError,
    MissingFileError,
)
from engram.storage.file_names import is_inside, is_weight_file
from support import tiny
from support.checked import failed

INDEX, ADAPTER = "model.safetensors.index.json", "engram_adapter.json"
OUTSIDE = [
    *("../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt", "./a", "a//b", "a/", "", "."),
    *("..", "C:x", "C:/x", r"\\host\x", r"..\x", "a\0b", "\ud800", "a" * 256, "a/" * 600 + "a"),
    *(None, 1, ["a"], {"a": "b"}),
]
# Names inside of a folder that are still no weight files.
NO_WEIGHTS = ["config.json", INDEX, "sub/a.safetensors", "a.bin", "a.SAFETENSORS"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="module")
def sound(base, tmp_path_factory):
    """An attached folder and an adapter, as they were written. Do not change them."""
    folder = tmp_path_factory.mktemp("sound")
    tiny.attached_model(base, folder / "adapter", adapter=True)
    return tiny.attached_model(base, folder / "attached"), folder / "adapter"


@pytest.fixture
def attached(sound, tmp_path):
    return shutil.copytree(sound[0], tmp_path / "in" / "attached")


@pytest.fixture
def adapter(sound, tmp_path):
    return shutil.copytree(sound[1], tmp_path / "in" / "adapter")


def edit(path, change):
    values = json.loads(path.read_text())
    values = change(values) or values
    path.write_text(json.dumps(values))


def edit_engram(folder, *keys, value=None):
    """Set a value below the key engram of a folder's config, or remove it where none is given."""

    def change(config):
        values = config["engram"]
        for key in keys[:-1]:
            values = values[key]
        if value is None:
            del values[keys[-1]]
        else:
            values[keys[-1]] = value[0]

    edit(folder / "config.json", change)


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(call, folder, kind=CorruptFileError, match=None):
    """Expect a typed error with a next step, and the folder as it was."""
    before = everything(folder)
    with pytest.raises(kind, match=match) as caught:
        call()
    assert caught.value.hint
    assert everything(folder) == before
    return caught.value


def test_names_that_leave_a_folder():
    assert not any(map(is_inside, OUTSIDE))
    assert not any(map(is_weight_file, OUTSIDE))


def test_names_that_stay_in_a_folder():
    good = [
        "tokenizer.json",
        ".gitattributes",
        "additional_chat_templates/a.jinja",
        "ab: c",
        "ü..x",
    ]
    assert all(map(is_inside, good))
    assert not any(map(is_weight_file, NO_WEIGHTS))
    assert is_weight_file("model-00001-of-00002.safetensors")


@pytest.mark.parametrize("name", ["../escaped.txt", "{tmp}/escaped.txt", "a/../../x", r"..\x"])
@pytest.mark.parametrize("key", ["sidecars", "replaced", "files", "files of the folder"])
@pytest.mark.parametrize("link", [True, False])
def test_detach_writes_and_reads_nothing_outside(attached, tmp_path, key, name, link):
    (tmp_path / "in" / "escaped.txt").write_text("a secret beside the folder")
    name = name.format(tmp=tmp_path)
    shard = "model-00001-of-00001.safetensors"
    value = {"files": {name: shard}, "files of the folder": {"model.safetensors": name}}
    edit_engram(attached, "base", key.split()[0], value=(value.get(key, [name]),))
    error = refused(lambda: detach(attached, tmp_path / "out" / "again", link=link), tmp_path)
    assert repr(name)[1:-1] in error.message
    assert key.split()[0] in error.message
    assert error.details["path"] == str(attached / "config.json")
    assert not (tmp_path / "out").exists()
    assert key.split()[0] in failed(attached)["settings"]
    refused(lambda: engram.load(attached), tmp_path)


def test_a_linked_weight_file_is_not_written_through(attached, tmp_path):
    shard = "model-00001-of-00001.safetensors"
    edit_engram(attached, "base", "files", value=({"config.json": shard},))
    refused(lambda: detach(attached, tmp_path / "again", link=True), tmp_path, match="config.json")
    edit_engram(attached, "base", "files", value=({"model.safetensors": shard},))
    edit_engram(attached, "base", "sidecars", value=(["model.safetensors"],))
    refused(lambda: detach(attached, tmp_path / "again", link=True), tmp_path, match="sidecars")


def test_detach_takes_links_as_the_cache_of_the_hub_has_them(sound, base, tmp_path):
    snapshot = shutil.copytree(sound[0], tmp_path / "snapshots" / "main")
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.iterdir() if path.is_file())):
        file.rename(tmp_path / "blobs" / str(number))
        file.symlink_to(f"../../blobs/{number}")
    detach(snapshot, tmp_path / "again", link=True)
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in base.iterdir()}


def test_a_file_of_the_base_that_is_gone(attached, tmp_path):
    (attached / "tokenizer.json").unlink()
    error = refused(lambda: detach(attached, tmp_path / "again"), tmp_path, MissingFileError)
    assert "tokenizer.json" in error.message
    assert not (tmp_path / "again").exists()


BASES = {
    "engram.base is missing": ("base", None),
    "engram.base is 1, not an object": ("base", (1,)),
    "engram.base.files is missing": ("base files", None),
    "engram.base.files is ['model.safetensors'], not an object": (
        *("base files", (["model.safetensors"],)),
    ),
    "engram.base.sidecars is missing": ("base sidecars", None),
    "engram.base.sidecars is 'tokenizer.json', not a list": ("base sidecars", ("tokenizer.json",)),
    "engram.base.replaced[0] is 'tokenizer.json', not": ("base replaced", (["tokenizer.json"],)),
    "engram.base.auto_map is [1], not an object": ("base auto_map", ([1],)),
    "engram.base.auto_map.AutoModelForCausalLM is missing": ("base auto_map", ({},)),
}
MEMORIES = {
    "engram.addresses is missing": ("addresses", None),
    "engram.addresses is [], not an object": ("addresses", ([],)),
    "engram.addresses.layers is missing": ("addresses layers", None),
    "layers is 'two', not a list": ("addresses layers", ("two",)),
    "engram.config is missing": ("config", None),
    "engram.config is [1], not an object": ("config", ([1],)),
    "engram.layers_path is missing": ("layers_path", None),
    "engram.layers_path is 3, not a text": ("layers_path", (3,)),
}


@pytest.mark.parametrize("words", {**BASES, **MEMORIES})
def test_damaged_settings(attached, tmp_path, words):
    keys, value = {**BASES, **MEMORIES}[words]
    edit_engram(attached, *keys.split(), value=value)
    error = refused(lambda: engram.load(attached), tmp_path)
    assert words in error.message
    assert str(attached / "config.json") in error.message
    assert words in failed(attached)["settings"]
    if words in BASES:
        error = refused(lambda: detach(attached, tmp_path / "again"), tmp_path)
        assert words in error.message


def test_settings_that_contradict_each_other(attached, tmp_path):
    edit_engram(attached, "config", "layer_ids", value=([1, 2],))
    error = refused(lambda: engram.load(attached), tmp_path, MismatchError, "layer_ids")
    assert error.details["stored"] == [2, 1]
    edit_engram(attached, "config", "n_head_per_ngram", value=("two",))
    refused(lambda: engram.load(attached), tmp_path, ConfigError, "n_head_per_ngram")
    assert "n_head_per_ngram" in failed(attached)["settings"]


@pytest.mark.parametrize("value", [1, [], "memory", True])
def test_a_memory_that_is_no_object(attached, tmp_path, value):
    edit(attached / "config.json", lambda config: config.update(engram=value))
    words = f"engram is {value!r}, not an object"
    for call in (lambda: engram.load(attached), lambda: detach(attached, tmp_path / "again")):
        assert words in refused(call, tmp_path).message
    assert words in failed(attached)["settings"]


def test_a_memory_that_is_null(attached, tmp_path):
    edit(attached / "config.json", lambda config: config.update(engram=None))
    for call in (lambda: engram.load(attached), lambda: detach(attached, tmp_path / "again")):
        refused(call, tmp_path, LayoutError, "has no memory")


@pytest.mark.parametrize("value", [None, 3, ["llama"]])
def test_a_model_type_that_is_no_text(attached, tmp_path, value):
    edit(attached / "config.json", lambda config: config.update(model_type=value))
    refused(lambda: engram.load(attached), tmp_path, CorruptFileError, "model_type")


@pytest.mark.parametrize("value", [{}, [], 3, None, {"base": {}, "model_config": {}}])
def test_an_adapter_whose_settings_are_damaged(base, adapter, tmp_path, value):
    (adapter / ADAPTER).write_text(json.dumps(value))
    for call in (lambda: engram.load(base, adapter), lambda: detach(adapter, tmp_path / "again")):
        assert str(adapter / ADAPTER) in refused(call, tmp_path, EngramError).message
    assert ADAPTER in failed(adapter)["settings"]


def test_an_adapter_without_a_memory(base, adapter, tmp_path):
    edit(adapter / ADAPTER, lambda values: values["model_config"].pop("engram") and None)
    refused(lambda: engram.load(base, adapter), tmp_path, match="engram is missing")
    assert "engram is missing" in failed(adapter)["settings"]


@pytest.mark.parametrize(
    "value", [{}, [], {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": None}]
)
def test_a_damaged_index(base, adapter, attached, tmp_path, value):
    for folder in (adapter, attached):
        (folder / INDEX).write_text(json.dumps(value))
        assert INDEX in failed(folder)["settings"]
    refused(lambda: engram.load(base, adapter), tmp_path)


@pytest.mark.parametrize("name", [".", "..", "../x.safetensors", *NO_WEIGHTS])
def test_an_index_that_names_what_is_no_weight_file(base, adapter, attached, tmp_path, name):
    names = []
    for folder in (adapter, attached):
        edit(
            folder / INDEX,
            lambda index: index["weight_map"].update({"model.layers.1.engram.x": name}),
        )
        names.append(failed(folder)["settings"])
    assert all(repr(name) in text for text in names)
    error = refused(lambda: engram.load(base, adapter), tmp_path)
    assert repr(name) in error.message
    plain = shutil.copytree(base, tmp_path / "base")
    (plain / "model.safetensors").rename(plain / "model-1.safetensors")
    (plain / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    out = tmp_path / "out"
    refused(lambda: attach.attach(plain, tiny.memory_config(), out), tmp_path, match="weight|safet")


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00001.safetensors"])
def test_an_adapter_with_a_file_of_the_base(base, adapter, tmp_path, name):
    (adapter / "engram-00001-of-00001.safetensors").rename(adapter / name)
    edit(
        adapter / INDEX,
        lambda index: {"weight_map": dict.fromkeys(index["weight_map"], name)},
    )
    refused(lambda: engram.load(base, adapter), tmp_path, match="which is the base's")


def test_an_adapter_that_lacks_its_weights(base, adapter, tmp_path):
    (adapter / "engram-00001-of-00001.safetensors").unlink()
    refused(lambda: engram.load(base, adapter), tmp_path, MissingFileError, "engram-00001")


@pytest.mark.parametrize("name", ["thesis.docx", "notes.txt", "train.py", "mine", "../attached"])
@pytest.mark.parametrize("key", ["sidecars", "files", "index"])
def test_a_user_file_that_a_config_calls_its_own(attached, base, tmp_path, name, key):
    (attached / "mine").mkdir()
    for file in ("thesis.docx", "notes.txt", "train.py", "mine/tokenizer.json"):
        (attached / file).write_text("precious")
    if key == "index":
        edit(attached / INDEX, lambda index: index["weight_map"].update(x=name))
    else:
        listed = [name, f"{name}/notes.txt"]
        value = dict.fromkeys(listed, name) if key == "files" else listed
        edit_engram(attached, "base", key, value=(value,))
    again = partial(attach.attach, base, tiny.memory_config(seed=9), attached, overwrite=True)
    refused(again, tmp_path, InputError, "not replaced")


def test_a_user_file_below_a_folder_of_the_base(attached, base, tmp_path):
    again = partial(attach.attach, base, tiny.memory_config(seed=9), attached, overwrite=True)
    (attached / "engram_base" / "notes.txt").write_text("precious")
    refused(again, tmp_path, InputError, "engram_base")
    (attached / "engram_base" / "notes.txt").unlink()
    again()
    assert json.loads((attached / "config.json").read_text())["engram"]["config"]["seed"] == 9


def test_an_adapter_is_replaced_and_what_lies_beside_it_is_kept(adapter, base, tmp_path):
    again = partial(
        attach.attach, base, tiny.memory_config(seed=9), adapter, adapter=True, overwrite=True
    )
    (adapter / "tokenizer.json").write_text("precious")
    refused(again, tmp_path, InputError, "tokenizer.json")
    (adapter / "tokenizer.json").unlink()
    again()
    assert engram.load(base, adapter).config.engram["config"]["seed"] == 9


def test_stored_addresses_of_every_wrong_form(sound):
    stored = json.loads((sound[0] / "config.json").read_text())["engram"]["addresses"]
    assert Addresses.from_dict(stored).fingerprint == stored["fingerprint"]
    bad = [None, -1, 1.5, "x", "", True, [], ["x"], [[]], [None], {}, {"a": 1}, 2**70]
    assert isinstance(_read({**stored, "layout": "none"}), LayoutError)
    for key in ("layout", "map_sha256", "raw_vocab_size", "vocab_size", "fill", "layers"):
        assert isinstance(_read({k: v for k, v in stored.items() if k != key}), CorruptFileError)
        for value in bad:
            assert isinstance(_read({**stored, key: value}), EngramError)
    for key in stored["layers"][0]:
        for value in bad:
            layers = [{**stored["layers"][0], key: value}, stored["layers"][1]]
            assert isinstance(_read({**stored, "layers": layers}), EngramError)
        layers = [{k: v for k, v in layer.items() if k != key} for layer in stored["layers"]]
        assert isinstance(_read({**stored, "layers": layers}), CorruptFileError)
    for values in (None, 1, [], "x"):
        assert isinstance(_read(values), CorruptFileError)


def _read(values):
    with pytest.raises(EngramError) as caught:
        Addresses.from_dict(values)
    return caught.value

"""Constants of a memory that differ from its config are refused on every way of loading."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

import engram
import engram.hf
from engram.errors import CorruptFileError, EngramError, MismatchError
from engram.storage.stored import read_folder_headers
from engram.tensor_names import OFFSETS, TOKEN_MAP
from support import tiny

WAYS = {
    "engram.load": engram.load,
    "Auto class": AutoModelForCausalLM.from_pretrained,
    "from disk": lambda folder: engram.load(folder, tables="disk"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("constants")
    base = tiny.base_model("llama", root / "base")
    tiny.attached_model(base, root / "attached")
    tiny.attached_model(base, root / "adapter", adapter=True)
    return root


@pytest.fixture
def copy(folders, tmp_path):
    def make(name):
        return shutil.copytree(folders / name, tmp_path / name)

    return make


def constants(folder):
    """Names of the memory's integer tensors with where each starts in its file."""
    headers = read_folder_headers(folder)
    return {
        name: info
        for name, info in headers.items()
        if ".engram." in name and info.dtype in ("I32", "I64")
    }


def flip(info, entry, bit=0):
    """Flip one bit of one entry of a tensor, in its file."""
    size = {"I32": 4, "I64": 8}[info.dtype]
    with info.path.open("r+b") as file:
        file.seek(info.start + entry * size + bit // 8)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_every_stored_constant_is_among_those_that_are_flipped(folders):
    names = {name.partition(".engram.")[2] for name in constants(folders / "attached")}
    assert names == {OFFSETS, TOKEN_MAP}


@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_constant_is_refused(copy, way):
    folder = copy("attached")
    WAYS[way](folder)
    for name, info in constants(folder).items():
        flip(info, 3, bit=1)
        with pytest.raises(MismatchError) as refused:
            WAYS[way](folder)
        flip(info, 3, bit=1)
        if name.endswith(OFFSETS):
            assert name in refused.value.message
            assert "entry 3 must be" in refused.value.message


def test_flipped_constants_of_an_adapter_are_refused(folders, copy):
    adapter = copy("adapter")
    for name, info in constants(adapter).items():
        engram.load(folders / "base", adapter)
        flip(info, 0)
        with pytest.raises(MismatchError):
            engram.load(folders / "base", adapter)
        flip(info, 0)
        assert name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", ["multipliers", "primes", "stored_rows", "fill", "vocab_size"])
def test_changed_numbers_in_the_config_are_refused(copy, way, change):
    file = copy("attached") / "config.json"
    config = json.loads(file.read_text())
    addresses = config["engram"]["addresses"]
    layer = addresses["layers"][1]
    if change == "multipliers":
        layer[change][1] = str(int(layer[change][1]) ^ 2)
    elif change == "primes":
        layer[change][0][1] ^= 2
    elif change == "stored_rows":
        layer[change] += 1
    else:
        addresses[change] += 1
    file.write_text(json.dumps(config))
    with pytest.raises(EngramError):
        WAYS[way](file.parent)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("key", "value"), [("seed", 4), ("engram_table_size", [302, 406, 530]), ("row_multiple", 64)]
)
def test_a_config_of_other_constants_is_refused(copy, way, key, value):
    file = copy("attached") / "config.json"
    config = json.loads(file.read_text())
    config["engram"]["config"][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(MismatchError, match=r"layer \d: (primes|stored_rows|multipliers): entry"):
        WAYS[way](file.parent)


def test_a_damaged_generation_config_is_named(copy):
    folder = copy("attached")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token_id": "x"}))
    with pytest.raises(CorruptFileError, match=r"generation_config\.json is damaged"):
        engram.load(folder)

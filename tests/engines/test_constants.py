"""Exported constants, read back by readers that know nothing of the library."""

from __future__ import annotations

import hashlib
import json
import re
import struct

import numpy as np
import pytest

import engram
from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.checkpoints.convert.convert import convert
from engram.engines.constants_files import dse1
from engram.errors import InputError, MismatchError, MissingFileError, UsageError
from support import tiny
from support.layouts import LAYOUTS, layout_config
from support.paths import BPE, WORD


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By layout: a config file, and a folder with its constants."""
    folder = tmp_path_factory.mktemp("constants")
    for layout in LAYOUTS:
        engram.write_config(folder / f"{layout}.yaml", layout_config(layout, tokenizer=str(BPE)))
        engram.export_constants(folder / f"{layout}.yaml", folder / layout)
    return folder


def addresses_of(layout):
    return engram.EngramTokenizer(layout_config(layout), BPE).addresses


def arrays(header):
    """The arrays of a C header, as flat lists of numbers, and its macros."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    found = re.findall(r"static const \w+ (\w+)(?:\[\w+\])+ = \{(.*?)\};", text, re.DOTALL)
    numbers = {
        name: [int(n) for n in re.findall(r"\d+", body.replace("UINT64_C", ""))]
        for name, body in found
    }
    return numbers, dict(re.findall(r"#define ENGRAM_(\w+) (\S+)", text))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_json_states_everything_that_decides_rows(folders, layout):
    stated = json.loads((folders / layout / "constants.json").read_text())
    addresses = addresses_of(layout)
    assert next(iter(stated)) == "schema"
    assert stated["schema"] == "engram.constants/1"
    assert stated["layout"] == stated["rule"]["name"] == layout
    assert stated["fingerprint"] == addresses.fingerprint
    assert stated["layer_ids"] == [2, 1]
    assert (stated["heads"], stated["orders"], stated["columns"]) == (2, [2, 3, 4], 6)
    assert (stated["fill"], stated["end_id"]) == (addresses.fill, addresses.end_id)
    for layer, expected in zip(stated["layers"], addresses.layers, strict=True):
        assert layer["multiplier_numbers"] == list(expected.multipliers)
        assert [int(text) for text in layer["multipliers"]] == list(expected.multipliers)
        assert all(isinstance(text, str) for text in layer["multipliers"])
        flat = [prime for row in layer["primes"] for prime in row]
        assert layer["offsets"] == [sum(flat[:i]) for i in range(len(flat))]
        assert layer["hash_rows"] == sum(flat) <= layer["rows"]
    listed = {file["name"]: file for file in stated["files"]}
    here = {path.name for path in (folders / layout).iterdir()}
    assert here == {*listed, "constants.json"}
    for name, file in listed.items():
        content = (folders / layout / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )


@pytest.mark.parametrize("layout", ["demo", "deepseek_v41"])
def test_the_token_map_is_the_same_in_every_form(folders, layout):
    folder = folders / layout
    expected = compressed_map(load_tokenizer(BPE)).tolist()
    raw = (folder / "engram_token_map.bin").read_bytes()
    assert list(struct.unpack(f"<{len(expected)}i", raw)) == expected
    stated = json.loads((folder / "constants.json").read_text())
    assert hashlib.sha256(raw).hexdigest() == stated["map_sha256"]
    assert stated["compressed_vocab_size"] == max(expected) + 1
    assert stated["raw_vocab_size"] == len(expected) == tiny.VOCAB
    assert stated["pad"] == {"token_id": 2, "compressed_id": expected[2]}
    assert stated["fill"] == expected[2]
    eos = stated["eos"]["token_id"]
    assert stated["eos"]["compressed_id"] == (None if eos is None else expected[eos])
    assert json.loads((folder / "engram_token_map.json").read_text()) == expected
    array = np.load(folder / "token_map.npy", allow_pickle=False)
    assert (array.dtype.str, array.tolist()) == ("<i4", expected)
    words = (folder / "token_map.memh").read_text().splitlines()
    assert all(re.fullmatch("[0-9a-f]{8}", word) for word in words)
    assert [int(word, 16) for word in words] == expected
    assert arrays((folder / "engram_constants.h").read_text())[0]["engram_token_map"] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_header_holds_the_constants(folders, layout):
    numbers, macros = arrays((folders / layout / "engram_constants.h").read_text())
    addresses = addresses_of(layout)
    layers = addresses.layers
    assert numbers["engram_layer_ids"] == addresses.layer_ids
    assert numbers["engram_rows"] == [layer.stored_rows for layer in layers]
    for name, part in (("multipliers", "multipliers"), ("primes", "heads"), ("offsets", "offsets")):
        expected = [number for layer in layers for number in getattr(layer, part)]
        assert numbers[f"engram_{name}"] == expected
    end = {"qwen_ple": "1"}.get(layout, "-1")
    assert (macros["END_ID"], macros["LAYOUT"]) == (end, f'"{layout}"')
    assert macros["SKIPS_DEAD"] == str(int(layout == "demo"))
    assert ("engram_token_map" in numbers) == (macros["HAS_TOKEN_MAP"] == "1")
    assert macros["FILL"] == str(addresses.fill)


@pytest.mark.parametrize("layout", ["demo", "deepseek_v41"])
def test_dse1_is_read_as_its_authors_do(folders, layout):
    raw = (folders / layout / "constants.dse1").read_bytes()
    at = 0

    def take(form, count=1):
        nonlocal at
        size = struct.calcsize(f"<{count}{form}")
        at += size
        return list(struct.unpack(f"<{count}{form}", raw[at - size : at]))

    assert raw[:4] == b"DSE1"
    at = 4
    addresses = addresses_of(layout)
    assert take("I") == [1]
    (vocab,) = take("I")
    assert take("i", vocab) == addresses.token_map.tolist()
    layers, order, heads = take("I", 3)
    assert (layers, order, heads) == (2, 4, 2)
    for layer in addresses.layers:
        assert take("q") == [layer.stored_rows]
        assert take("q", order) == list(layer.multipliers)
        assert take("q", (order - 1) * heads) == list(layer.offsets)
        assert take("q", (order - 1) * heads) == list(layer.heads)
    assert at == len(raw)


def test_raw_ids_have_no_map(folders):
    exported = engram.export_constants(folders / "qwen_ple.yaml", folders / "raw")
    left_out = {"engram_token_map.bin", "token_map.npy", "engram_token_map.json"}
    left_out |= {"token_map.memh", "constants.dse1"}
    assert set(exported.left_out) == left_out
    assert {path.name for path in (folders / "raw").iterdir()} == {
        "constants.json",
        "engram_constants.h",
    }
    stated = json.loads((folders / "raw" / "constants.json").read_text())
    assert set(stated["left_out"]) == left_out
    assert (stated["map_sha256"], stated["compressed_vocab_size"]) == (None, None)
    assert stated["eos"] == {"token_id": 1, "compressed_id": None}


def test_dse1_of_the_release_is_as_long_as_its_authors():
    """517,992 bytes; multipliers and primes as they are published."""
    config = engram.load_config("deepseek-v4.1-flash")
    token_map = np.arange(129280, dtype=np.int32) % 99092
    raw = dse1(Addresses.from_config(config, token_map, pad_id=2), token_map)
    assert len(raw) == 517_992
    first = struct.unpack_from("<5q", raw, 12 + 4 * 129280 + 12)
    multipliers = (76632096046245, 4839876093313, 35959672319349, 73987337458391)
    assert first == (384006168, *multipliers)


@pytest.mark.real
def test_the_export_of_the_release_is_what_is_published(real_assets, tmp_path):
    """Map digest and row ids of DeepSeek-V4.1-Flash, with its tokenizer."""
    tokenizer = real_assets / "tokenizers" / "deepseek-v4"
    engram.export_constants("deepseek-v4.1-flash", tmp_path / "out", tokenizer=tokenizer)
    stated = json.loads((tmp_path / "out" / "constants.json").read_text())
    digest = "c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481"
    assert (stated["map_sha256"], stated["compressed_vocab_size"]) == (digest, 99092)
    assert (tmp_path / "out" / "constants.dse1").stat().st_size == 517_992
    golden = engram.export_golden("deepseek-v4.1-flash", tmp_path / "golden", tokenizer=tokenizer)
    case, (reading,) = golden.cases[-1]
    assert case.name == "text"
    assert reading.step.token_ids[:4] == (22898, 19737, 270, 9327)
    assert reading.rows[0, 0, :4].tolist() == [3874264, 17444110, 36148658, 57882170]


def test_the_released_constants_of_qwen(golden, tmp_path):
    known = golden("qwen3_8_flash_next_constants")
    engram.export_constants("qwen3.8-flash-next", tmp_path / "out")
    (layer,) = json.loads((tmp_path / "out" / "constants.json").read_text())["layers"]
    assert layer["multiplier_numbers"] == [23703573157769, 20109073645365, 8052911324071]
    assert (layer["hash_rows"], layer["rows"]) == (320001446, 320001536)
    assert [prime for row in layer["primes"] for prime in row] == known["head_vocab_sizes"]
    assert layer["offsets"] == known["offsets"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_export_what_their_configs_do(folders, layout, tmp_path_factory, tmp_path):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    attached = tiny.attached_model(base, tmp_path / "attached", layout_config(layout))
    convert(attached, tmp_path / "published", layout)
    known = files_of(folders / layout)
    engram.export_constants(attached, tmp_path / "one")
    assert files_of(tmp_path / "one") == known
    engram.export_constants(tmp_path / "published", tmp_path / "two", tokenizer=BPE)
    assert files_of(tmp_path / "two") == known
    (attached / "tokenizer.json").unlink()  # such a folder holds the map itself
    engram.export_constants(attached, tmp_path / "three")
    assert files_of(tmp_path / "three") == known
    if layout != "qwen_ple":
        with pytest.raises(MissingFileError, match=r"no tokenizer\.json") as caught:
            engram.export_constants(tmp_path / "published", tmp_path / "four")
        assert "-t TOKENIZER" in caught.value.hint
        with pytest.raises(MismatchError):
            engram.export_constants(attached, tmp_path / "four", tokenizer=WORD)


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "constants.json"}


def test_what_is_not_meant_is_refused(folders, tmp_path):
    engram.write_config(tmp_path / "bare.yaml", layout_config("demo"))
    with pytest.raises(InputError, match="does not name a tokenizer"):
        engram.export_constants(tmp_path / "bare.yaml", tmp_path / "out")
    with pytest.raises(UsageError, match="is a config itself"):
        engram.export_constants("gpt2", tmp_path / "out", config="gpt2")
    with pytest.raises(MissingFileError, match="neither a template nor a file"):
        engram.export_constants("gpt-22", tmp_path / "out")
    with pytest.raises(InputError, match="neither a folder nor a safetensors file"):
        engram.export_constants(__file__, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_are_replaced_only_when_asked(folders, tmp_path):
    config, out = folders / "demo.yaml", tmp_path / "out"
    engram.export_constants(folders / "qwen_ple.yaml", out)
    with pytest.raises(InputError, match="already"):
        engram.export_constants(config, out)
    engram.export_constants(config, out, overwrite=True)
    assert files_of(out) == files_of(folders / "demo")
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"mine\.txt"):
        engram.export_constants(config, out, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="nothing in it says"):
        engram.export_golden(config, tmp_path / "other", overwrite=True)

"""Files that a repair writes: whole or not at all, tensors byte by byte, sources unchanged."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple

import gguf
import numpy as np
import pytest

import engram
from engram.checkpoints.convert.gguf_repair import repair_gguf
from engram.checkpoints.gguf.gguf_addresses import gguf_addresses
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import (
    DoesNotFitError,
    InputError,
    MismatchError,
    MissingFileError,
    NoError,
    UsageError,
)
from engram.storage.gguf_headers import read_gguf
from support import gguf_files
from support.gguf_faults import codes
from support.gguf_files import Array, Tensor
from support.gguf_memories import BY_NAME, addresses_of, facts_of, fill, write_memory
from support.gguf_repairs import contents, parts_of, refused, split_memory
from support.kills import killed_at
from support.paths import BPE, WORD

COMPRESSED = [it for it in sorted(BY_NAME) if "token_map" in BY_NAME[it].facts]
WITH_TABLES = [it for it in sorted(BY_NAME) if BY_NAME[it].table is not None]


def small_memory(path, name, **fault):
    """Write a small memory of the tokenizer BPE with random rows; returns its addresses."""
    addresses = addresses_of(name)
    pad = 2
    if addresses.token_map is not None and not BY_NAME[name].pad_is_raw:
        pad = int(addresses.token_map[2])
    changed = {**facts_of(addresses, pad), "size_base": addresses.layers[0].heads[0]}
    if addresses.token_map is None:
        changed["eos_token_id"] = 248044
    vocab = {"tokenizer.ggml.tokens": Array("string", ["t"] * addresses.raw_vocab_size)}
    write_memory(path, name, changed=changed, values=vocab, small=True, **fault)
    generator = np.random.default_rng(5)
    tensors = read_gguf(path).tensors
    big = {it: tensor for it, tensor in tensors.items() if "engram_" in it or "per_layer" in it}
    fill(
        path,
        {
            # Small bytes are of no encoding's NaN or infinity.
            it: generator.integers(0, 60, tensor.data_bytes).astype(np.uint8)
            for it, tensor in big.items()
            if it.startswith(("blk.", "per_layer"))
        },
    )
    return addresses


def data_of(path):
    """Bytes of each tensor of a file."""
    return {
        name: tensor.source.read(tensor.start, tensor.data_bytes)
        for name, tensor in read_gguf(path).tensors.items()
    }


@pytest.mark.parametrize("name", [it for it in COMPRESSED if BY_NAME[it].table is not None])
def test_token_maps_and_all_that_follows_from_them(name, tmp_path):
    right, source, output = (tmp_path / f"{it}.gguf" for it in ("right", "source", "output"))
    addresses = small_memory(right, name)
    assert codes(right) == set()
    lost = [it for it in BY_NAME[name].facts if it in ("token_map", "multipliers")]
    if name == "gguf_ds4":  # of other sizes than the release's, their number tells the orders
        lost.remove("multipliers")
    if "compressed_vocab_size" in BY_NAME[name].facts:
        lost.append("compressed_vocab_size")
    small_memory(source, name, without=lost)
    refused(tmp_path, MissingFileError, source)
    assert "ids, and the model" in str(refused(tmp_path, MismatchError, source, tokenizer=WORD))
    result = repair_gguf(source, output, tokenizer=BPE)
    assert result.mended[0].code == "CONST_MISSING"
    assert codes(output) == set()
    if "multipliers" not in BY_NAME[name].optional:
        assert gguf_addresses(open_gguf(output)).layers == addresses.layers
    stated, data = contents(output)[0], data_of(output)
    optional = {f"deepseek41.{BY_NAME[name].facts[it].name}" for it in BY_NAME[name].optional}
    expected = {key: value for key, value in contents(right)[0].items() if key not in optional}
    assert {key: value for key, value in stated.items() if key not in optional} == expected
    assert data == data_of(right)


def test_a_tokenizer_that_is_not_the_files(tmp_path):
    source = tmp_path / "source.gguf"
    small_memory(source, "gguf_llama", without=("multipliers",))
    error = refused(tmp_path, MismatchError, source, tokenizer=WORD)
    assert "its token map is another" in error.message
    output = tmp_path / "output.gguf"
    repair_gguf(source, output, tokenizer=BPE)
    assert codes(output) == set()


@pytest.mark.parametrize("name", WITH_TABLES)
def test_rows_and_weights_are_kept_and_the_gguf_package_reads_them(name, tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    small_memory(source, name, prefix="deepseek40", without=("primes",)[: name == "gguf_jig"])
    before = source.read_bytes()
    repair_gguf(source, output)
    assert source.read_bytes() == before
    kept = data_of(source)
    assert {it: data for it, data in data_of(output).items() if it in kept} == kept
    reader = gguf.GGUFReader(output)
    ours = read_gguf(output)
    assert {tensor.name: tensor.data_offset for tensor in reader.tensors} == {
        it: tensor.start for it, tensor in ours.tensors.items()
    }
    for tensor in reader.tensors:
        assert tensor.data.tobytes() == data_of(output)[tensor.name]
    for key, value in ours.values.items():
        if value.is_array and value.kind != "string":
            stated = [int(part[0]) for part in reader.fields[key].parts[-value.count :]]
            assert stated == value.numbers().tolist()


def test_tensors_that_constants_are_have_the_dimensions_of_their_engines(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    dims = {"gguf_jig": (24, 2), "gguf_youngai": (8, 3, 2)}
    for name, of_primes in dims.items():
        facts = ("primes", "offsets", "multipliers")
        write_memory(source, name, without=facts)
        repair_gguf(source, output, overwrite=True)
        tensors, places = read_gguf(output).tensors, BY_NAME[name].facts
        found = [tensors[places[it].name].dims for it in facts]
        assert found == [of_primes, (24, 2), (4, 2)]


def test_a_file_without_faults_is_not_written_again(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    write_memory(source, "gguf_ds4")
    result = repair_gguf(source, output)
    assert (result.written, result.files, result.mended) == (False, (), ())
    assert not output.exists()
    assert result.to_dict()["written_bytes"] == 0


def test_a_plan_writes_nothing_and_says_what_would_be_written(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    write_memory(source, "gguf_ds4", without=("primes",))
    planned = repair_gguf(source, output, dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]
    told = []
    done = repair_gguf(source, output, progress=lambda *step: told.append(step))
    assert {**done.to_dict(), "written": False} == planned.to_dict()
    assert next(iter(planned.to_dict())) == "schema"
    assert json.loads(json.dumps(done.to_dict()))["mended"][0]["code"] == "CONST_MISSING"
    (file,) = done.files
    assert output.stat().st_size == file.bytes
    assert told[-1] == (file.bytes, file.bytes)
    # 200 GB of holes stay holes.
    assert output.stat().st_blocks * 512 < 2**24 < output.stat().st_size


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("name", WITH_TABLES)
def test_of_a_split_model_the_first_part_alone_is_written(name, link, tmp_path):
    lost = ("multipliers",) if not BY_NAME[name].facts["multipliers"].is_tensor else ()
    paths = split_memory(tmp_path / "source", name, without=lost, prefix="deepseek40")
    before = [(contents(path), path.stat()) for path in paths]
    result = repair_gguf(paths[1], tmp_path / "out", link=link)
    kind = "linked" if link else "copied"
    assert [file.origin for file in result.files] == ["written", kind, kind]
    assert codes(tmp_path / "out") == set()
    assert [contents(path) for path in paths] == [it for it, _ in before]
    assert [path.stat().st_mtime_ns for path in paths] == [it.st_mtime_ns for _, it in before]
    for path in paths[1:]:
        assert contents(tmp_path / "out" / path.name) == contents(path)
        assert (tmp_path / "out" / path.name).samefile(path) == link
    stated = json.loads((tmp_path / "out" / "engram-repair.json").read_text())
    assert stated == result.to_dict()
    # It is the command's own, and may be replaced; nothing else may.
    with pytest.raises(InputError, match="already"):
        repair_gguf(paths[0], tmp_path / "out", link=link)
    repair_gguf(tmp_path / "source", tmp_path / "out", link=link, overwrite=True)
    assert codes(tmp_path / "out") == set()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        repair_gguf(paths[0], tmp_path / "out", link=link, overwrite=True)


@pytest.mark.parametrize("name", ["gguf_llama", "gguf_jig"])
@pytest.mark.parametrize("fault", [{"split_no": 7}, {"split_count": 7}, {"total": 7}])
def test_keys_that_say_how_a_model_is_split(name, fault, tmp_path):
    paths = split_memory(tmp_path / "source", name, **fault)
    wrong = {"split_no": "SPLIT_NO", "split_count": "SPLIT_COUNT", "total": "SPLIT_TENSORS"}
    assert codes(paths[0]) == {wrong[next(iter(fault))]}
    result = repair_gguf(paths[0], tmp_path / "out")
    assert {file.origin for file in result.files} == {"written"}
    assert codes(tmp_path / "out") == set()


def test_names_and_constants_in_other_parts(tmp_path):
    paths = split_memory(
        tmp_path / "source",
        "gguf_jig",
        renamed={"blk.14.engram_wkv.weight": "blk.14.engram_kv.weight"},
        without=("primes",),
    )
    assert "NAME_MISMATCH" in codes(paths[0])
    repair_gguf(paths[0], tmp_path / "out")
    assert codes(tmp_path / "out") == set()


@pytest.mark.parametrize("name", WITH_TABLES)
def test_metadata_in_a_first_part_of_their_own(name, tmp_path):
    source = write_memory(tmp_path / "model.gguf", name)
    assert codes(source) == set()
    result = repair_gguf(source, tmp_path / "out", first_shard=True)
    names = [f"model-0000{number}-of-00002.gguf" for number in (1, 2)]
    assert [file.name for file in result.files] == names
    first, second = (read_gguf(tmp_path / "out" / it) for it in names)
    constants = {it.name for it in BY_NAME[name].facts.values() if it.is_tensor}
    assert {*first.tensors} == constants
    assert {*second.values} == {
        *("general.alignment", "split.no", "split.count", "split.tensors.count")
    }
    assert codes(tmp_path / "out") == set()
    # The next repair writes the first part alone.
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "out", broken, copy_function=os.link)
    (broken / "engram-repair.json").unlink()
    values, tensors = parts_of(broken / names[0])
    data = data_of(broken / names[0])
    place = BY_NAME[name].facts["layer_ids"].name
    key = next(it for it in values if it.endswith(place))
    (broken / names[0]).unlink()
    del values[key]
    gguf_files.write(broken / names[0], values, tensors)
    fill(broken / names[0], {it: np.frombuffer(each, np.uint8) for it, each in data.items()})
    assert "CONST_MISSING" in codes(broken)
    again = repair_gguf(broken, tmp_path / "again", link=True)
    assert [file.origin for file in again.files] == ["written", "linked"]
    assert again.written_bytes < 2**20
    assert codes(tmp_path / "again") == set()
    assert repair_gguf(tmp_path / "again", tmp_path / "more", first_shard=True).files == ()


def test_a_first_part_before_those_that_are_there(tmp_path):
    paths = split_memory(tmp_path / "source", "gguf_llama", prefix="deepseek4")
    result = repair_gguf(paths[0], tmp_path / "out", first_shard=True)
    assert [file.name for file in result.files] == [
        f"model-0000{number}-of-00004.gguf" for number in (1, 2, 3, 4)
    ]
    assert codes(tmp_path / "out") == set()


def test_places_of_tensors(tmp_path):
    whole, source = tmp_path / "whole.gguf", tmp_path / "source.gguf"
    write_memory(whole, "gguf_llama")
    values, tensors = parts_of(whole)

    def placed(shift):
        gguf_files.write(source, values, tensors, offset=lambda i, right: right + i * shift)
        with source.open("r+b") as file:
            file.truncate(source.stat().st_size + 2**20)
        return codes(source)

    for shift, code in ((16384, "NOT_CONSECUTIVE"), (32, "UNALIGNED")):
        assert code in placed(shift)
        repair_gguf(source, tmp_path / f"{shift}.gguf")
        assert codes(tmp_path / f"{shift}.gguf") == set()
        assert contents(tmp_path / f"{shift}.gguf")[0] == contents(whole)[0]
    assert "NOT_CONSECUTIVE" in placed(-16384)
    assert "begins before" in refused(tmp_path, NoError, source).message


def test_what_is_of_other_kinds_stays_as_it_is(tmp_path):
    odd = {"blk.3.odd.weight": Tensor((64, 100), 144, bytes=4096)}
    whole, source, output = (tmp_path / f"{it}.gguf" for it in ("whole", "source", "output"))
    kinds = {key: it for key, it in gguf_files.every_kind().items() if "general" not in key}
    write_memory(whole, "gguf_llama", tensors=odd, prefix="deepseek4", values=kinds)
    values, tensors = parts_of(whole)
    gguf_files.write(source, values, {**tensors, **odd}, version=2)
    repair_gguf(source, output)
    assert codes(output) == set()
    stated = contents(output)[0]
    assert all(stated[key] == contents(source)[0][key] for key in kinds)
    assert read_gguf(output).tensors["blk.3.odd.weight"].type_id == 144
    assert read_gguf(output).version == 3


def test_an_architecture_that_is_missing(tmp_path):
    whole, source, output = (tmp_path / f"{it}.gguf" for it in ("whole", "source", "output"))
    write_memory(whole, "gguf_llama")
    values, tensors = parts_of(whole)
    del values["general.architecture"]
    gguf_files.write(source, values, tensors)
    assert "PREFIX_WRONG" in codes(source)
    repair_gguf(source, output)
    assert contents(output) == contents(whole)


def test_the_same_keys_under_two_prefixes(tmp_path):
    whole, source, output = (tmp_path / f"{it}.gguf" for it in ("whole", "source", "output"))
    write_memory(whole, "gguf_llama")
    values, tensors = parts_of(whole)
    old = {"deepseek4.engram.primes": Array("uint64", [5] * 48)}
    gguf_files.write(source, {**old, **values}, tensors)
    assert "PREFIX_WRONG" in codes(source)
    repair_gguf(source, output)
    assert contents(output) == contents(whole)


def test_outputs_that_may_not_be(tmp_path, monkeypatch):
    source = write_memory(tmp_path / "source.gguf", "gguf_llama", prefix="deepseek4")
    paths = split_memory(tmp_path / "parts", "gguf_llama", prefix="deepseek4")
    for path, output, error, told in (
        (source, source, InputError, "is what is read"),
        (source, tmp_path / "fixed", UsageError, "must end with"),
        (source, paths[0], InputError, "already there"),
        (paths[0], tmp_path / "fixed.gguf", UsageError, "3 parts"),
        (paths[0], tmp_path / "parts", InputError, "which is read, lies in"),
        (paths[0], tmp_path, InputError, "which is read, lies in"),
        (source, tmp_path / "no" / "fixed.gguf", MissingFileError, "does not exist"),
        (tmp_path / "no.gguf", tmp_path / "fixed.gguf", MissingFileError, "cannot be read"),
    ):
        with pytest.raises(error, match=told):
            repair_gguf(path, output)
    with pytest.raises(UsageError, match="unknown engine"):
        repair_gguf(source, tmp_path / "fixed.gguf", engine="torch")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**20))
    with pytest.raises(DoesNotFitError, match="free"):
        repair_gguf(source, tmp_path / "fixed.gguf")


def test_a_source_that_becomes_shorter_leaves_nothing(tmp_path, monkeypatch):
    from engram.checkpoints.convert import gguf_repair_parts

    source = tmp_path / "source.gguf"
    small_memory(source, "gguf_ds4", prefix="deepseek4")
    whole = gguf_repair_parts.copy_stretch

    def cut(*arguments):
        with source.open("r+b") as file:
            file.truncate(source.stat().st_size // 2)
        whole(*arguments)

    monkeypatch.setattr(gguf_repair_parts, "copy_stretch", cut)
    refused(tmp_path, InputError, source)


@pytest.mark.parametrize("is_split", [False, True])
def test_a_kill_at_every_event_leaves_the_source_and_no_half(is_split, tmp_path):
    number, was_killed = 0, True
    while was_killed:
        number += 1
        folder = tmp_path / f"{number}"
        folder.mkdir()
        source = folder / "source.gguf"
        if is_split:
            source = split_memory(folder / "source", "gguf_llama", prefix="deepseek4")[0]
        else:
            small_memory(source, "gguf_llama", prefix="deepseek4")
        before = contents(source)
        output = folder / ("out" if is_split else "out.gguf")
        was_killed = killed_at(number, output, lambda a=source, b=output: repair_gguf(a, b))
        assert contents(source) == before
        assert not output.exists() or codes(output) == set()
        if not output.exists():
            repair_gguf(source, output)
        assert codes(output) == set()
        named = {"source", "out"} if is_split else {"source.gguf", "out.gguf"}
        assert {path.name for path in folder.iterdir()} == named
    assert number > 2


def test_a_memory_of_another_vocabulary_keeps_what_is_its_own(tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    addresses = small_memory(source, "gguf_qwen4exp", prefix="deepseek40")
    repair_gguf(source, output)
    stated = open_gguf(output)
    factors = [it for layer in addresses.layers for it in layer.multipliers]
    assert stated.integers("multipliers") == factors
    assert codes(output) == set()
    # Nothing tells the token that ends its documents.
    small_memory(source, "gguf_qwen4exp", without=("eos_token_id",))
    error = refused(tmp_path, NoError, source)
    assert error.details["codes"] == ["CONST_MISSING"]


def test_faults_whose_ids_stay_were_not_mended(tmp_path):
    """The end and the pad of another model than the release are its own."""
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    small_memory(source, "gguf_qwen4exp", without=("multipliers",), kept={"eos_token_id": 7})
    assert codes(source) == {"CONST_MISSING", "SILENT_OFF"}
    result = repair_gguf(source, output)
    assert [fault.code for fault in result.mended] == ["CONST_MISSING"]
    assert open_gguf(output).integer("eos_token_id") == 7
    # Whether the pad moves cannot be told without a token map; with it, the id is the same.
    addresses = small_memory(source, "gguf_llama", without=("token_map",))
    assert addresses.token_map[2] == 2
    assert "PAD_SPACE" in codes(source, engine="buckets")
    result = repair_gguf(source, output, tokenizer=BPE, engine="buckets", overwrite=True)
    assert "PAD_SPACE" not in {fault.code for fault in result.mended}
    assert open_gguf(output).integer("pad_id") == 2


@pytest.mark.parametrize("name", [it for it in COMPRESSED if BY_NAME[it].table is not None])
def test_pads_of_other_memories_than_the_release_stay(name, tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    for pad in (0, 1, 5):
        small_memory(source, name, kept={"pad_id": pad}, prefix="deepseek40")
        assert codes(source) == {"PREFIX_WRONG", "SILENT_OFF"}
        repair_gguf(source, output, overwrite=True)
        assert open_gguf(output).integer("pad_id") == pad
        assert codes(output) == set()
    small_memory(source, name, kept={"pad_id": 2**20})
    assert codes(source) == {"CONST_WRONG"}
    assert refused(tmp_path, NoError, source).details["codes"] == ["CONST_WRONG"]
    # Nothing tells a pad that is not stated.
    small_memory(source, name, without=("pad_id",))
    assert codes(source) == {"CONST_MISSING", "SILENT_OFF"}
    error = refused(tmp_path, NoError, source)
    assert error.details["codes"] == ["CONST_MISSING"]
    assert "deepseek-v4.1-flash" not in error.message


@pytest.mark.parametrize("engine", ["buckets", "llama.cpp"])
def test_pads_of_other_memories_move_to_the_space_of_the_engine(engine, tmp_path):
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    is_raw = engine == "llama.cpp"
    name = "gguf_buckets" if is_raw else "gguf_llama"
    token_map = small_memory(source, name).token_map.tolist()
    moved = next(id for id, it in enumerate(token_map) if id != it and token_map.index(it) == id)
    spaces = (moved, token_map[moved]) if is_raw else (token_map[moved], moved)
    small_memory(source, name, kept={"pad_id": spaces[0]})
    repair_gguf(source, output, engine=engine)
    assert open_gguf(output).integer("pad_id") == spaces[1]


@pytest.mark.parametrize("fault", [{"without": ("kernel_size",)}, {"kept": {"kernel_size": 4}}])
def test_taps_are_those_of_the_convolution(fault, tmp_path, monkeypatch):
    from support import gguf_memories

    monkeypatch.setitem(gguf_memories._PLE_DIMS, "conv1d.weight", (6, 10240))
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    write_memory(source, "gguf_qwen4exp", **fault)
    repair_gguf(source, output)
    assert open_gguf(output).integer("kernel_size") == 6
    assert codes(output) == set()


@pytest.mark.real
def test_a_first_upload_is_mended_with_the_released_tokenizer(real_assets, tmp_path):
    """The five keys that they lacked, keys of deepseek4, and V4.1's own token map."""
    source, output = tmp_path / "source.gguf", tmp_path / "output.gguf"
    five = ("multipliers", "primes", "offsets", "pad_id", "token_map")
    tokens = {"tokenizer.ggml.tokens": Array("string", ["t"] * 129280)}
    write_memory(source, "gguf_llama", without=five, prefix="deepseek4", values=tokens)
    tokenizers = real_assets / "tokenizers"
    with pytest.raises(MismatchError, match="in other groups|ids, and the model"):
        repair_gguf(source, output, tokenizer=tokenizers / "deepseek-v3")
    repair_gguf(source, output, tokenizer=tokenizers / "deepseek-v4", engine="llama.cpp")
    assert engram.verify(output, tokenizer=tokenizers / "deepseek-v4", engine="llama.cpp").ok
    addresses = gguf_addresses(open_gguf(output))
    assert addresses.vocab_size == 99092
    assert addresses.layers[0].multipliers[0] == 76632096046245

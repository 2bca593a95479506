"""Conversions to GGUF and back: equal bytes where rows are interleaved, equal rows elsewhere."""

from __future__ import annotations

import errno
import json
import shutil
from functools import partial

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engram import look_up
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.convert.gguf_repair import repair_gguf
from engram.checkpoints.verify.verify import verify
from engram.errors import (
    DoesNotFitError,
    InputError,
    LayoutError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from engram.nn.quantised import quantise_fp8_blocks
from engram.storage import unfinished
from engram.storage.gguf_headers import read_gguf
from engram.storage.gguf_writer import NewTensor, NewValue, header_of, padded_chunks
from support.cli import run as cli
from support.converted import equal, memory_of, run
from support.gguf_faults import codes
from support.gguf_files import Array
from support.gguf_memories import write_filled, write_memory
from support.layouts import random_memory
from support.paths import BPE, WORD

TEXT = "the lookup of an n-gram, the lookup"


@pytest.fixture(scope="session")
def attached(base, tmp_path_factory):
    """A memory of V4.1's layout with rows of its width, random throughout."""
    folder = tmp_path_factory.mktemp("v41") / "attached"
    return random_memory(
        base, folder, "deepseek_v41", n_embed_per_ngram=512, n_head_per_ngram=2, table_dtype=None
    )


@pytest.fixture(scope="session")
def released(attached, tmp_path_factory):
    """The same as it would be released: fp8 tables, and fp8 projections with 32 x 32 scales."""
    folder = tmp_path_factory.mktemp("v41") / "released"
    run(attached, folder, "deepseek_v41", dtype="fp8")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    for file in folder.glob("*.safetensors"):
        found = load_file(file)
        for name in [name for name in found if name.endswith("wkv.weight")]:
            scale = name.replace("weight", "scale")
            found[name], found[scale] = quantise_fp8_blocks(found[name])
            values["weight_map"][scale] = file.name
        for name in [name for name in found if name.endswith(("q_weight", "k_weight"))]:
            found[name] = found[name].bfloat16()
        save_file(found, file, {"format": "pt"})
    index.write_text(json.dumps(values))
    return folder


def _weights(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def _layers(path, tokenizer=BPE):
    """What a look-up shows of every layer: rows, norms and repeated rows."""
    return look_up(path, TEXT, tokenizer=tokenizer).to_dict()["layers"]


def _demand_right(path, **options):
    checks = list(verify(path, **options))
    assert [check for check in checks if check.ok is False] == []


def _losses(made, part="table"):
    return [parts[part].max_error for parts in made.losses().values()]


def test_released_weights_come_back_byte_for_byte_from_both_forms_of_rows(released, tmp_path):
    run(released, tmp_path / "plain", "deepseek_v41", tokenizer=BPE)
    made = run(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    assert made.dtypes == ("fp8", "e4m3_e8m0_32_row264")
    run(tmp_path / "d.gguf", tmp_path / "two.gguf", "gguf_tarruda")
    back = run(tmp_path / "two.gguf", tmp_path / "back", "deepseek_v41")
    for part in ("table", "dense"):
        assert _losses(made, part) == _losses(back, part) == [0, 0]
    assert _weights(tmp_path / "back") == _weights(tmp_path / "plain")
    again = run(tmp_path / "two.gguf", tmp_path / "again.gguf", "gguf_ds4")
    assert _losses(again) == _losses(again, "dense") == [0, 0]
    for name in ("d.gguf", "two.gguf", "again.gguf"):
        _demand_right(tmp_path / name, tokenizer=BPE)
        assert _layers(tmp_path / name) == _layers(released)
    one, other = (read_gguf(tmp_path / name).tensors for name in ("d.gguf", "again.gguf"))
    assert {name: it.dims for name, it in one.items()} == {
        name: it.dims for name, it in other.items()
    }
    stored = [(tmp_path / name).read_bytes() for name in ("d.gguf", "again.gguf")]
    for name in one:
        places = zip(stored, (one[name], other[name]), strict=True)
        assert len({content[it.start : it.stop] for content, it in places}) == 1, name
    assert list(one)[-2:] == [f"blk.{layer}.engram_embd.weight" for layer in (2, 1)]
    assert all(tensor.start % 16384 == 0 for tensor in one.values())


def test_interleaved_rows_are_codes_and_then_their_scales(released, tmp_path):
    run(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "d.gguf").tensors}
    found = {
        name: value
        for file in released.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    for layer in (1, 2):
        parts = [found[f"layers.{layer}.engram.embed.{name}"] for name in ("weight", "scale")]
        codes, scales = (part.view(torch.uint8).numpy() for part in parts)
        rows = stored[f"blk.{layer}.engram_embd.weight"].view(np.uint8)
        np.testing.assert_array_equal(rows, np.concatenate([codes, scales], axis=1))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "q8_0"])
def test_our_own_memory_is_looked_up_alike_in_family_l(attached, dtype, tmp_path):
    made = run(attached, tmp_path / "l.gguf", "gguf_llama", dtype=dtype)
    _demand_right(tmp_path / "l.gguf", tokenizer=BPE, engine="llama.cpp")
    ours, theirs = _layers(attached), _layers(tmp_path / "l.gguf")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "l.gguf").tensors}
    table = stored["blk.1.engram_embd.weight"]
    assert table.tensor_type.name == {"q8_0": "Q8_0", "bfloat16": "BF16", "float16": "F16"}.get(
        dtype, "F32"
    )
    if dtype in (None, "float32"):
        assert theirs == ours
        assert _losses(made) == [0, 0]
        return
    values = memory_of(attached)["model.layers.1.engram.multi_head_embedding.embedding.weight"]
    decoded = gguf.quants.dequantize(table.data, table.tensor_type)
    np.testing.assert_array_equal(
        gguf.quants.quantize(values.numpy(), table.tensor_type), table.data
    )
    error = np.abs(decoded - values.numpy()).max()
    assert made.losses()[1]["table"].max_error == pytest.approx(error, rel=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        norms = [[head["row_norm"] for head in layer.pop("ngrams", [])] for layer in (one, other)]
        assert norms[0] == pytest.approx(norms[1], rel=0.02)


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_a_pad_of_our_own_stays_through_verify_and_repair(base, pad, tmp_path):
    changes = {"n_embed_per_ngram": 512, "n_head_per_ngram": 2, "table_dtype": None}
    random_memory(base, tmp_path / "attached", "deepseek_v41", pad_id=pad, **changes)
    run(tmp_path / "attached", tmp_path / "l.gguf", "gguf_llama")
    _demand_right(tmp_path / "l.gguf", tokenizer=BPE, engine="llama.cpp")
    assert not repair_gguf(tmp_path / "l.gguf", tmp_path / "mended.gguf").mended


def test_a_memory_of_qwen_and_back(folders, base, tmp_path):
    with pytest.raises(LayoutError, match="has one table"):
        convert(folders["qwen_ple"], tmp_path / "q.gguf", "gguf_qwen4exp")
    random_memory(base, tmp_path / "attached", "qwen_ple", layer_ids=[1])
    run(tmp_path / "attached", tmp_path / "published", "qwen_ple")
    made = run(tmp_path / "published", tmp_path / "q.gguf", "gguf_qwen4exp")
    assert _losses(made) == [0]
    _demand_right(tmp_path / "q.gguf")
    assert _layers(tmp_path / "q.gguf") == _layers(tmp_path / "published")
    back = run(tmp_path / "q.gguf", tmp_path / "back", "qwen_ple", dtype="float32")
    # Norms are centred at one in GGUF, which rounds them.
    assert 0 < _losses(made, "dense")[0] < 1e-6
    assert _losses(back) == [0]


def test_onto_a_base_again(attached, base, tmp_path):
    run(attached, tmp_path / "l.gguf", "gguf_llama", dtype="float32")
    run(tmp_path / "l.gguf", tmp_path / "back", base=base)
    equal(memory_of(tmp_path / "back"), memory_of(attached))


def test_other_tensors_and_keys_of_a_model_stay(released, tmp_path):
    """The base has a memory of its own in another dialect, which is replaced."""
    values = {"deepseek41.block_count": ("uint32", 7), "tokenizer.ggml.model": ("string", "gpt2")}
    write_memory(
        tmp_path / "base.gguf",
        "gguf_tarruda",
        values=values,
        small=True,
        changed={"rows": [302, 302]},
    )
    source = read_gguf(tmp_path / "base.gguf")
    with (tmp_path / "base.gguf").open("r+b") as file:
        file.seek(source.tensors["token_embd.weight"].start)
        file.write(bytes(range(1, 256)) * 50)
    run(released, tmp_path / "d.gguf", "gguf_ds4", base=tmp_path / "base.gguf", tokenizer=BPE)
    made = read_gguf(tmp_path / "d.gguf")
    assert made.values["deepseek41.block_count"].scalar() == 7
    assert not [key for key in made.values if "embedding_counts" in key]
    assert not [name for name in made.tensors if "embd_scale" in name]
    one, other = (
        (tmp_path / name).read_bytes()[tensor.start : tensor.stop]
        for name, tensor in (
            ("base.gguf", source.tensors["token_embd.weight"]),
            ("d.gguf", made.tensors["token_embd.weight"]),
        )
    )
    assert one == other != bytes(len(one))


def test_parts_begin_with_metadata_alone(released, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_conversion.MAX_PART_BYTES", 100_000)
    made = run(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    record, *names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert record == "engram-parts.json"
    assert names[0] == f"model-00001-of-{len(names):05}.gguf"
    assert len(names) > 3
    first, *others = (read_gguf(tmp_path / "model" / name) for name in names)
    assert not first.tensors
    assert all(len(other.values) == 4 for other in others)
    assert [file["bytes"] for file in made.files()] == [
        (tmp_path / "model" / name).stat().st_size for name in names
    ]
    _demand_right(tmp_path / "model", tokenizer=BPE)
    with pytest.raises(InputError, match="is there already"):
        convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    convert(tmp_path / "model" / names[2], tmp_path / "one.gguf", "gguf_ds4")
    convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE, overwrite=True)
    (tmp_path / "model" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not replaced"):
        convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE, overwrite=True)


# By case: the source, the target, the output, the dtype and another one.
RUNS = {
    "one file": ("released", "gguf_ds4", "out.gguf", None, None),
    "parts": ("attached", "gguf_llama", "parts", "q8_0", "bfloat16"),
    "published names": ("attached", "deepseek_v41", "folder", None, "bfloat16"),
    "attached": ("attached", "attached", "folder", "fp8", "int8"),
}


def _files(output):
    """Contents of what was written, whatever the output is called."""
    paths = [output] if output.is_file() else sorted(output.iterdir())
    return [path.read_bytes() for path in paths if path.suffix in (".gguf", ".safetensors")]


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_was_interrupted_is_continued(case, request, tmp_path, monkeypatch):
    source, to, name, dtype, other = RUNS[case]
    source, options = request.getfixturevalue(source), {"tokenizer": None}
    if to.startswith("gguf"):
        options["tokenizer"] = BPE
    for module in ("gguf_tensors", "recoded"):
        monkeypatch.setattr(f"engram.checkpoints.convert.{module}._CHUNK_VALUES", 2**13)
    monkeypatch.setattr("engram.checkpoints.convert.gguf_conversion.MAX_PART_BYTES", 100_000)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    steps = []
    whole = run(
        source,
        tmp_path / f"whole-{name}",
        to,
        dtype=dtype,
        **options,
        progress=lambda done, total: steps.append(done),
    )
    output, hidden = tmp_path / name, tmp_path / f".{name}.unfinished"

    def stop(done, total):
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, output, to, dtype=dtype, **options, progress=stop)
    assert not output.exists()
    assert hidden.is_dir()
    with pytest.raises(InputError, match="Continue with --resume") as error:
        convert(source, output, to, dtype=dtype, **options)
    assert "unfinished run" in str(error.value)
    if other is not None:
        with pytest.raises(InputError, match="started with other files"):
            convert(source, output, to, dtype=other, **options, resume=True)
    written = []
    again = run(
        source,
        output,
        to,
        dtype=dtype,
        **options,
        resume=True,
        progress=lambda done, total: written.append((done, total)),
    )
    assert written[-1][0] == written[-1][1]
    assert 0 < len(written) < 0.8 * len(steps)
    assert not hidden.exists()
    assert again.losses() == whole.losses()
    assert [len(content) for content in _files(output)] == [
        len(content) for content in _files(tmp_path / f"whole-{name}")
    ]
    if case != "parts":
        assert _files(output) == _files(tmp_path / f"whole-{name}")


def test_what_a_dialect_does_not_hold_is_refused(folders, attached, base, tmp_path):
    for source, to, options, error, match in (
        (folders["qwen_ple"], "gguf_llama", {}, LayoutError, "for deepseek_v41"),
        (attached, "gguf_ds4", {"dtype": "bfloat16"}, LayoutError, "It takes fp8|not converted"),
        (attached, "gguf_llama", {"dtype": "int8"}, LayoutError, "not converted to int8"),
        (attached, "gguf_llama", {"base": base}, UsageError, "not in GGUF"),
        (folders["deepseek_v41"], "gguf_ds4", {}, LayoutError, "256|fp8"),
    ):
        with pytest.raises(error, match=match):
            convert(source, tmp_path / "x.gguf", to, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_architecture_is_refused(attached, tmp_path):
    write_memory(tmp_path / "qwen.gguf", "gguf_qwen4exp", small=True, changed={"rows": [128]})
    with pytest.raises(InputError, match="architecture qwen4exp"):
        convert(attached, tmp_path / "x.gguf", "gguf_llama", base=tmp_path / "qwen.gguf")


def test_folders_and_files_of_the_user_are_not_replaced(released, tmp_path):
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "photos" / "a.jpg").write_text("precious")
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "model-00001-of-00001.gguf").write_text("downloaded")
    for name in ("mine", "split"):
        with pytest.raises(InputError, match="not replaced"):
            convert(released, tmp_path / name, "gguf_ds4", tokenizer=BPE, overwrite=True)
    output = tmp_path / "late.gguf"
    with pytest.raises(InputError, match="already there"):
        convert(
            released,
            output,
            "gguf_ds4",
            tokenizer=BPE,
            progress=lambda done, total: output.write_text("precious"),
        )
    assert output.read_text() == "precious"


def test_a_file_that_appears_during_a_repair_stays(attached, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    zero = _with_values(
        tmp_path / "whole.gguf", tmp_path / "zero.gguf", head_count=NewValue("uint32", 0)
    )
    output = tmp_path / "late.gguf"
    with pytest.raises(InputError, match="already there"):
        repair_gguf(
            zero,
            output,
            tokenizer=BPE,
            progress=lambda done, total: output.write_text("precious"),
        )
    assert output.read_text() == "precious"


def test_no_part_of_what_is_read_is_written(released, tmp_path):
    convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    first, second = sorted((tmp_path / "model").glob("*.gguf"))
    before = second.read_bytes()
    for source, options in ((first, {}), (released, {"base": first, "tokenizer": BPE})):
        with pytest.raises(InputError, match="would be changed or lost"):
            convert(source, second, "gguf_tarruda", overwrite=True, **options)
    assert second.read_bytes() == before


def test_a_memory_that_ends_documents_is_refused(base, tmp_path):
    options = {"n_embed_per_ngram": 512, "n_head_per_ngram": 2, "eos_id": 1}
    folder = random_memory(
        base, tmp_path / "a", "deepseek_v41", ends_after_eos=True, table_dtype=None, **options
    )
    with pytest.raises(LayoutError, match="ends documents"):
        convert(folder, tmp_path / "x.gguf", "gguf_llama")


def test_a_model_of_another_vocabulary_or_width_is_refused(released, tmp_path):
    for values, match in (
        ({"tokenizer.ggml.tokens": Array("string", ["a", "b"])}, "2 tokens"),
        ({"deepseek41.embedding_length": ("uint32", 5120)}, "hidden states of 5120"),
    ):
        path = tmp_path / "base.gguf"
        write_memory(path, "gguf_tarruda", values=values, small=True, changed={"rows": [302] * 2})
        with pytest.raises(MismatchError, match=match):
            convert(released, tmp_path / "x.gguf", "gguf_ds4", base=path, tokenizer=BPE)


def test_scales_of_a_memory_that_is_replaced_go_with_it(attached, released, tmp_path):
    convert(released, tmp_path / "d.gguf", "gguf_ds4", tokenizer=BPE)
    convert(attached, tmp_path / "x.gguf", "gguf_llama", base=tmp_path / "d.gguf")
    keys = [read_gguf(tmp_path / name).values for name in ("d.gguf", "x.gguf")]
    assert [any(key.startswith("engram_toolkit") for key in it) for it in keys] == [True, False]


def test_a_full_disk_is_no_reason_to_begin_anew(released, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_tensors._CHUNK_VALUES", 2**13)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    total = convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, dry_run=True)
    total = total.plan.written_bytes

    def full(done, total):
        if done > 0.6 * total:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DoesNotFitError):
        convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, progress=full)
    usage = shutil.disk_usage(tmp_path)
    free = 64 * 2**20 + total // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, resume=True)
    _demand_right(tmp_path / "x.gguf", tokenizer=BPE)


def test_an_output_that_is_a_link_stays_one(attached, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    convert(attached, tmp_path / "link", dtype="fp8")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "config.json").is_file()


@pytest.mark.parametrize("option", ["link", "trust_remote_code"])
def test_options_without_a_meaning_are_refused(attached, option, tmp_path):
    with pytest.raises(UsageError, match="no meaning"):
        convert(attached, tmp_path / "x.gguf", "gguf_llama", **{option: True})


def test_rows_of_another_width_than_an_encoding_has_are_refused(folders, tmp_path):
    convert(folders["deepseek_v41"], tmp_path / "fp8", dtype="fp8")
    with pytest.raises(LayoutError, match="cannot be stored as e4m3_e8m0_32_row264"):
        convert(tmp_path / "fp8", tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE)


def _with_values(path, output, **changed):
    """Write a file anew with other values of its memory's keys; None leaves a key out."""
    content = read_gguf(path)
    values = dict(content.values)
    for name, value in changed.items():
        key = f"deepseek41.engram.{name}"
        values.pop(key) if value is None else values.update({key: value})
    tensors = [
        NewTensor(it.name, it.dims, it.type_id, [partial(it.read, 0, it.data_bytes)])
        for it in content.tensors.values()
    ]
    alignment = content.alignment
    parts = [header_of(values, tensors, alignment)]
    parts += [make() for make in padded_chunks(tensors, alignment)]
    output.write_bytes(b"".join(parts))
    return output


@pytest.mark.parametrize("to", ["gguf_llama", "gguf_ds4"])
def test_a_token_map_that_was_cut_is_refused_and_mended(attached, to, tmp_path):
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    convert(attached, whole, to)
    place = read_gguf(whole).values["deepseek41.engram.token_map"]
    half = [int(number) for number in place.numbers()[: place.count // 2]]
    order = {number: at for at, number in enumerate(dict.fromkeys(half))}
    values = NewValue(place.kind, [order[number] for number in half])
    _with_values(whole, cut, token_map=values)
    for read in (
        lambda: convert(cut, tmp_path / "x.gguf", "gguf_tarruda"),
        lambda: look_up(cut, TEXT, tokenizer=BPE),
    ):
        with pytest.raises(MismatchError, match="token map has"):
            read()
    with pytest.raises(MissingFileError, match="no right token map"):
        repair_gguf(cut, tmp_path / "x.gguf")
    repair_gguf(cut, tmp_path / "mended.gguf", tokenizer=BPE)
    _demand_right(tmp_path / "mended.gguf", tokenizer=BPE)
    assert _layers(tmp_path / "mended.gguf") == _layers(whole)
    one, other = (read_gguf(path).values for path in (whole, tmp_path / "mended.gguf"))
    for name in ("token_map", "multipliers"):
        assert (
            one[f"deepseek41.engram.{name}"].packed() == other[f"deepseek41.engram.{name}"].packed()
        )


def test_another_tokenizer_mends_nothing(attached, tmp_path):
    whole = tmp_path / "whole.gguf"
    convert(attached, whole, "gguf_llama")
    bare = _with_values(whole, tmp_path / "bare.gguf", token_map=None)
    for path in (whole, bare):
        with pytest.raises(MismatchError):
            repair_gguf(path, tmp_path / "x.gguf", tokenizer=WORD)
    assert repair_gguf(whole, tmp_path / "x.gguf", tokenizer=BPE).files == ()
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("name", ["primes", "multipliers", "token_map", "layer_ids", "offsets"])
def test_a_list_without_entries_is_missing(attached, name, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    kind = read_gguf(tmp_path / "whole.gguf").values[f"deepseek41.engram.{name}"].kind
    path = _with_values(
        tmp_path / "whole.gguf", tmp_path / "empty.gguf", **{name: NewValue(kind, [])}
    )
    assert "CONST_MISSING" in codes(path)


@pytest.mark.parametrize("name", ["head_count", "key_length", "max_ngram_size"])
def test_sizes_of_zero_are_wrong(attached, name, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    path = _with_values(
        tmp_path / "whole.gguf", tmp_path / "zero.gguf", **{name: NewValue("uint32", 0)}
    )
    assert "CONST_WRONG" in codes(path)
    assert repair_gguf(path, tmp_path / "mended.gguf", tokenizer=BPE).written
    assert _layers(tmp_path / "mended.gguf") == _layers(tmp_path / "whole.gguf")


def test_constants_that_no_rule_gives_are_refused_with_the_repair(tmp_path):
    write_filled(tmp_path / "l.gguf", "gguf_llama", multipliers=[1, 3, 5, 7, 9, 11, 13, 15])
    with pytest.raises(MismatchError) as error:
        convert(tmp_path / "l.gguf", tmp_path / "x.gguf", "gguf_ds4")
    assert "--repair" in error.value.hint


def test_the_command_says_how_to_continue(attached, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_tensors._CHUNK_VALUES", 2**13)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    write, steps = unfinished.Place.write, []

    def stop(self, name, start, makers, step, digest=None):
        def counted(size):
            steps.append(size)
            if len(steps) == 12:
                raise KeyboardInterrupt
            step(size)

        write(self, name, start, makers, counted, digest)

    words = ("convert", attached, "-o", tmp_path / "x.gguf", "--to", "gguf_llama")
    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Place, "write", stop)
        code, _, err = cli(*words, "--dtype", "q8_0")
    assert code == 130
    assert "continue with --resume" in err
    code, out, err = cli(*words, "--dtype", "q8_0", "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["dtype"] == "Q8_0"
    code, out, err = cli("convert", attached, "-o", tmp_path / "y", "--dtype", "q8_0")
    assert (code, "GGUF alone" in err) == (2, True)
    code, out, err = cli(*words[:-1], "gguf_llama", "--dtype", "q4_0")
    assert (code, "q8_0" in err) == (2, True)

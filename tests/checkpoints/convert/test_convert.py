"""Conversions to another dtype: within the bound, or equal to the bit; whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.checkpoints.attach import attach, detach
from engram.checkpoints.convert import recoded
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import InputError, LayoutError, MismatchError
from engram.nn.quantised import FORMATS
from engram.storage import staging
from support import cli, tiny
from support.converted import IDS, equal, logits, memory_of, run, tensors
from support.layouts import LAYOUTS, random_memory

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
@EACH_LAYOUT
def test_quantised_tables_stay_within_their_bound(folders, base, layout, dtype, tmp_path):
    made = run(folders[layout], tmp_path / "small", dtype=dtype)
    before, after = memory_of(folders[layout]), memory_of(tmp_path / "small")
    for layer_id, losses in made.losses().items():
        name = f"model.layers.{layer_id}.engram.multi_head_embedding.embedding."
        values = before[name + "weight"]
        codes, scales = after.pop(name + "weight"), after.pop(name + "scale")
        back = FORMATS[dtype].dequantise(codes, scales, dtype=torch.float32)
        error = (back - values).abs()
        largest = values.abs().amax(dim=1, keepdim=True)
        assert (error <= largest / (16 if dtype == "fp8" else 253.9)).all()
        assert losses["table"].max_error == pytest.approx(float(error.max()))
        assert losses["table"].rms_error == pytest.approx(float(error.square().mean().sqrt()))
        assert losses["table"].rms == pytest.approx(float(values.square().mean().sqrt()))
        assert losses["dense"].max_error == 0
        del before[name + "weight"]
    equal(before, after)
    assert (tmp_path / "small" / "README.md").read_text().count(f"table ({dtype})") == 1
    full, small = logits(folders[layout]), logits(tmp_path / "small")
    assert 0 < (full - small).abs().max() < 0.1 * full.abs().max()
    wide = run(tmp_path / "small", tmp_path / "wide", dtype="float32")
    assert torch.equal(logits(tmp_path / "wide"), small)
    assert all(loss.max_error == 0 for parts in wide.losses().values() for loss in parts.values())
    if dtype == "fp8":
        # What was rounded once is not rounded again, though it may get a smaller scale.
        again = run(tmp_path / "wide", tmp_path / "again", dtype=dtype)
        assert [parts["table"].max_error for parts in again.losses().values()] == [0, 0]
        assert torch.equal(logits(tmp_path / "again"), small)


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_scales_are_the_same_whether_kept_or_made_again(folders, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(recoded, "_CHUNK_VALUES", 1)  # chunks of 32 rows
    found = []
    for kept_bytes in (2**20, 200, 0):
        monkeypatch.setattr(recoded, "_KEPT_BYTES", kept_bytes)
        run(folders["demo"], tmp_path / f"{kept_bytes}", dtype=dtype)
        found.append(memory_of(tmp_path / f"{kept_bytes}"))
    equal(found[0], found[1])
    equal(found[0], found[2])


def test_a_model_with_quantised_tables_runs_in_every_way_and_does_not_train(folders, tmp_path):
    run(folders["demo"], tmp_path / "small", dtype="fp8")
    checks = {check.name: check for check in verify(tmp_path / "small")}
    assert [check for check in checks.values() if check.ok is False] == []
    assert checks["cached = full"].ok
    model = engram.load(tmp_path / "small")
    text = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=2)
    same = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=2, use_cache=False)
    assert torch.equal(text, same)
    with pytest.raises(LayoutError, match="cannot be trained"):
        model.train()(IDS)
    half = engram.load(tmp_path / "small", dtype=torch.bfloat16)
    table = half.get_decoder().engram_layers[1].engram.multi_head_embedding.embedding
    assert table.weight.dtype == torch.float8_e4m3fn
    assert table(torch.arange(3)).dtype == torch.bfloat16
    model.eval().save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(tmp_path / "saved"), logits(tmp_path / "small"))
    equal(memory_of(tmp_path / "saved"), memory_of(tmp_path / "small"))


def test_reports_count_quantised_tables_with_their_scales(folders, tmp_path):
    for dtype, row in (("fp8", 4 + 1), ("int8", 4 + 4), ("float32", 16)):
        run(folders["demo"], tmp_path / dtype, dtype=dtype)
        tables = [part for part in inspect_checkpoint(tmp_path / dtype).weights if part.rows]
        assert [part.size_bytes for part in tables] == [part.rows * row for part in tables]
        assert [part.params for part in tables] == [part.rows * 4 for part in tables]
        assert {part.dtype for part in tables} == {dtype}


def test_a_scale_that_is_missing_is_named(folders, tmp_path):
    run(folders["demo"], tmp_path / "small", dtype="fp8")
    name = "model.layers.1.engram.multi_head_embedding.embedding.scale"
    (file,) = (tmp_path / "small").glob("engram-*.safetensors")
    kept = {key: value for key, value in load_file(file).items() if key != name}
    save_file(kept, file, {"format": "pt"})
    index = tmp_path / "small" / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    del values["weight_map"][name]
    index.write_text(json.dumps(values))
    failed = [check for check in verify(tmp_path / "small", headers_only=True) if check.ok is False]
    assert any(name in check.detail for check in failed)
    with pytest.raises(MismatchError, match=r"scale"):
        engram.load(tmp_path / "small")
    with pytest.raises(MismatchError, match="scales are missing"):
        convert(tmp_path / "small", tmp_path / "x", dry_run=True)


def test_a_float_dtype_is_for_all_of_the_memory(folders, tmp_path):
    made = run(folders["demo"], tmp_path / "half", dtype="bf16")
    for name, value in memory_of(folders["demo"]).items():
        after = memory_of(tmp_path / "half")[name]
        expected = value.bfloat16() if value.is_floating_point() else value
        assert torch.equal(after, expected)
        assert after.dtype == expected.dtype
    assert made.losses()[1]["dense"].max_error > 0


def test_files_of_the_base_stay_as_they_are(folders, base, tmp_path):
    for link in (False, True):
        output = tmp_path / str(link)
        made = run(folders["demo"], output, dtype="fp8", link=link)
        name = "model-00001-of-00001.safetensors"
        assert list(made.kept) == [name]
        assert (output / name).read_bytes() == (folders["demo"] / name).read_bytes()
        assert (output / name).samefile(folders["demo"] / name) == link
        origins = {file["name"]: file["origin"] for file in made.files()}
        assert origins[name] == ("linked" if link else "copied")
    detach.detach(tmp_path / "False", tmp_path / "base")
    theirs, ours = (
        {f.name: f.read_bytes() for f in d.iterdir()} for d in (base, tmp_path / "base")
    )
    assert theirs == ours


def test_a_folder_that_was_saved_anew(folders, tmp_path):
    model = engram.load(folders["demo"])
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="60KB")
    for saved in ("one", "many"):
        run(tmp_path / saved, tmp_path / f"{saved}-fp8", dtype="fp8")
        run(tmp_path / f"{saved}-fp8", tmp_path / f"{saved}-int8", dtype="int8")
        assert not (tmp_path / f"{saved}-int8" / "model.safetensors").exists()
        expected = {n: v for n, v in tensors(tmp_path / saved).items() if ".engram." not in n}
        found = {
            n: v for n, v in tensors(tmp_path / f"{saved}-int8").items() if ".engram." not in n
        }
        equal(found, expected)
        small = logits(tmp_path / f"{saved}-int8")
        assert (small - logits(tmp_path / saved)).abs().max() < 0.2


def test_values_that_cannot_be_stored_are_refused_and_nothing_is_left(base, tmp_path):
    folder = random_memory(base, tmp_path / "attached", "demo")
    for file in folder.glob("engram-*.safetensors"):
        found = load_file(file)
        name = "model.layers.1.engram.multi_head_embedding.embedding.weight"
        if name in found:
            found[name][7, 1] = float("inf")
        save_file(found, file, {"format": "pt"})
    for dtype in ("fp8", "int8", "float16"):
        with pytest.raises(InputError, match="not finite"):
            run(folder, tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["attached"]


def test_an_interrupted_conversion_leaves_nothing(folders, tmp_path):
    def stop(done: int, total: int | None) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folders["demo"], tmp_path / "out", dtype="fp8", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_removes_what_a_process_that_was_killed_at_the_end_left(
    folders, tmp_path, monkeypatch
):
    remove = staging.remove

    def killed(folder):
        if folder.name == ".out.unfinished":
            raise KeyboardInterrupt
        remove(folder)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(folders["demo"], tmp_path / "out", dtype="fp8")
    assert len(list(tmp_path.iterdir())) == 2
    convert_again = partial(convert, folders["demo"], tmp_path / "out", dtype="fp8")
    with pytest.raises(InputError, match="already"):
        convert_again(dry_run=True)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match="already"):
        convert_again()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting(folders, tmp_path):
    for to in ("attached", "demo"):
        run(folders["demo"], tmp_path / to, to)
        with pytest.raises(InputError, match="there already"):
            run(folders["demo"], tmp_path / to, to)
        convert(folders["demo"], tmp_path / to, to, overwrite=True)
        (tmp_path / to / "mine.txt").write_text("precious")
        with pytest.raises(InputError, match=r"mine\.txt"):
            convert(folders["demo"], tmp_path / to, to, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attached", "demo"]


def test_memory_use_is_bounded_by_chunks(base, tmp_path):
    """A table of 216 MB becomes fp8 in less memory than it has."""
    config = tiny.memory_config(
        engram_table_size=[1_000_000] * 3, n_embed_per_ngram=36, layer_ids=[2]
    )
    attach.attach(base, config, tmp_path / "big", init="paper")
    code = f"""
import torch
from pathlib import Path
from engram.checkpoints.convert.convert import convert
from engram.nn.quantised import quantise_fp8, dequantise_fp8
from engram.checkpoints.verify.verify import verify
dequantise_fp8(*quantise_fp8(torch.randn(2**12, 64)))  # loads what is compiled, too
def used(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = used()
big, out = Path({str(tmp_path / "big")!r}), Path({str(tmp_path / "out")!r})
made = convert(big, out, dtype="fp8").plan
assert sum(f["bytes"] for f in made.files()) > 50e6
print(used() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert int(done.stdout) < 100_000  # kB


def test_the_command_prints_what_was_lost(folders, tmp_path):
    words = ("convert", folders["demo"], "-o")
    answer = cli.run(*words, tmp_path / "small", "--dtype", "fp8", "--json").json()
    assert (answer["schema"], answer["dtype"]) == ("engram.convert/1", "fp8")
    assert [layer["layer_id"] for layer in answer["layers"]] == [2, 1]
    for layer in answer["layers"]:
        assert 0 < layer["table"]["rms_error"] < layer["table"]["max_error"] < 1
        assert layer["dense"] == {"max_error": 0.0, "rms_error": 0.0, "rms": None}
    files = {path.name: path.stat().st_size for path in (tmp_path / "small").glob("*.safetensors")}
    for file in answer["files"]:
        assert 0 <= files[file["name"]] - file["bytes"] < 8192  # the header
    shown = cli.run(*words, tmp_path / "other", "--dtype", "int8").ended().stdout
    assert "from float32 to int8" in shown
    assert "rms error" in shown
    planned = cli.run(*words, tmp_path / "planned", "--to", "demo", "--dry-run", "--json")
    assert not planned.json()["written"]
    assert not (tmp_path / "planned").exists()
    refused = cli.run(*words, tmp_path / "x", "--to", "deepseek_v41", "--json").error(2)
    assert "no convolution" in refused["message"]


@pytest.mark.parametrize("cache_rows", [0, 7])
@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_quantised_tables_are_read_from_disk(folders, dtype, cache_rows, tmp_path):
    run(folders["demo"], tmp_path / "small", dtype=dtype)
    expected = logits(tmp_path / "small")
    on_disk = {"tables": "disk", "cache_rows": cache_rows}
    for _ in range(2):
        assert torch.equal(logits(tmp_path / "small", **on_disk), expected)
    model = engram.load(tmp_path / "small", **on_disk)
    assert not [name for name in model.state_dict() if "embedding.weight" in name]
    with pytest.raises(LayoutError, match="from disk and cannot be trained"):
        model.train()(IDS)
    half = engram.load(tmp_path / "small", dtype=torch.bfloat16, **on_disk)
    assert torch.equal(
        half(IDS).logits, engram.load(tmp_path / "small", dtype=torch.bfloat16)(IDS).logits
    )
    model.eval().save_pretrained(tmp_path / "saved")
    equal(memory_of(tmp_path / "saved"), memory_of(tmp_path / "small"))
    assert torch.equal(logits(tmp_path / "saved", **on_disk), expected)

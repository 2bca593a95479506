"""Conversions: equal to the bit where nothing is rounded, else within the bound; whole or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import engram
from engram import EngramConfig
from engram.addressing.tokenizer import EngramTokenizer
from engram.checkpoints.attach import attach, detach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import InputError, LayoutError, MismatchError, UsageError
from engram.nn import EngramModule
from engram.nn.quantised import FORMATS, dequantise_fp8
from support import cli, tiny
from support.checked import failed, verdicts
from support.layouts import LAYOUTS, layout_config, random_memory
from support.near import assert_near
from support.paths import BPE, GOLDEN

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
IDS = torch.randint(3, tiny.VOCAB, (2, 19), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Attached folders with random weights, by layout: as attached, their memory overwritten."""
    return {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def memory_of(folder):
    return {name: value for name, value in tensors(folder).items() if ".engram." in name}


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        raw = [value.contiguous().flatten().view(torch.uint8) for value in (one[name], other[name])]
        assert torch.equal(*raw), name


def run(source, output, to="attached", **options):
    made = convert(source, output, to, **options).plan
    return made


def logits(folder, **options):
    with torch.no_grad():
        return engram.load(folder, **options)(IDS).logits


@EACH_LAYOUT
def test_to_published_names_and_back_is_equal_to_the_bit(folders, base, layout, tmp_path):
    made = run(folders[layout], tmp_path / "published", layout)
    assert all(loss.max_error == 0 for parts in made.losses().values() for loss in parts.values())
    back = run(tmp_path / "published", tmp_path / "back", base=base)
    equal(memory_of(tmp_path / "back"), memory_of(folders[layout]))
    assert torch.equal(logits(tmp_path / "back"), logits(folders[layout]))
    assert back.addresses.fingerprint == made.addresses.fingerprint
    assert all(check.ok is not False for check in verify(tmp_path / "back", headers_only=True))
    assert not any(check.ok is False for check in verify(tmp_path / "published"))
    again = run(tmp_path / "published", tmp_path / "again", layout)
    equal(tensors(tmp_path / "again"), tensors(tmp_path / "published"))
    assert again.addresses.fingerprint == made.addresses.fingerprint


@EACH_LAYOUT
def test_published_names_are_compared_with_what_is_stated_beside_them(folders, layout, tmp_path):
    published = tmp_path / "published"
    run(folders[layout], published, layout)
    right, wrong = (
        {name: check.ok for name, check in verdicts(published, tokenizer=tokenizer).items()}
        for tokenizer in (BPE, BPE.with_name("local_word"))
    )
    is_raw = layout == "qwen_ple"
    assert (right["constants"], right["tokenizer"]) == (True, None if is_raw else True)
    assert wrong == {**right, "tokenizer": None if is_raw else False}
    file = published / "engram_memory.json"
    stated = json.loads(file.read_text())
    stated["config"]["row_multiple"] = 1009
    file.write_text(json.dumps(stated))
    assert "constants" in failed(published)
    with pytest.raises(MismatchError):
        engram.look_up(published, "the Milky Way", tokenizer=BPE)
    file.write_text("{}")
    assert [*verdicts(published)] == [*failed(published)] == ["settings"]


@EACH_LAYOUT
def test_published_names_load_into_a_module_as_they_are(folders, layout, tmp_path):
    run(folders[layout], tmp_path / "published", layout)
    found = tensors(tmp_path / "published")
    values = memory_of(folders[layout])
    config = layout_config(layout, table_dtype="float32")
    distributions = EngramTokenizer(config, BPE).vocab_distributions
    for layer_id in (2, 1):
        mark = f"layers.{layer_id}." + ("ple." if layout == "qwen_ple" else "engram.")
        state = {name.partition(mark)[2]: value for name, value in found.items() if mark in name}
        module = EngramModule(config, distributions[layer_id])
        result = module.load_state_dict(state)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
        for name, value in module.state_dict().items():
            assert torch.equal(value, values[f"model.layers.{layer_id}.engram.{name}"]), name


def test_a_state_dict_of_the_demo_gives_the_golden_forward(tmp_path, monkeypatch):
    meta = json.loads((GOLDEN / "demo_v1_forward_f32.json").read_text())["config"]
    golden = load_file(GOLDEN / "demo_v1_forward_f32.safetensors")
    config = EngramConfig(
        hidden_size=16,
        engram_vocab_size=544,
        engram_table_size=[size * 2 for size in meta["engram_vocab_size"]],
        n_embed_per_ngram=meta["n_embed_per_ngram"],
        n_head_per_ngram=2,
        layer_ids=meta["layer_ids"],
        hc_mult=4,
        kernel_size=4,
        pad_id=2,
        seed=0,
    )
    state = {
        f"layers.3.engram.{name.removeprefix('state.')}": value
        for name, value in golden.items()
        if name.startswith("state.")
    }
    other = EngramModule(config, EngramTokenizer(config, BPE).vocab_distributions[1])
    with torch.no_grad():
        keys = other.state_dict()
        for name in [name for name in state if "table" not in name]:
            key = name.replace("layers.3", "layers.1")
            if "embedding.weight" in name:
                state[key] = keys["multi_head_embedding.embedding.weight"]
            elif "offsets" in name:
                state[key] = keys["multi_head_embedding.offsets"]
            else:
                state[key] = torch.rand_like(state[name])
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "demo.safetensors"
    )
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=544,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
        )
    )
    base.save_pretrained(tmp_path / "base")
    for file in BPE.iterdir():
        shutil.copyfile(file, tmp_path / "base" / file.name)
    options = {"base": tmp_path / "base", "config": config}
    # The golden memory has four streams, as no family of transformers that can be attached to.
    monkeypatch.setattr("engram.hf.wiring.check_fits", lambda *args: None)
    with pytest.raises(UsageError, match="-c CONFIG"):
        convert(
            tmp_path / "demo.safetensors", tmp_path / "out", base=tmp_path / "base", dry_run=True
        )
    convert(tmp_path / "demo.safetensors", tmp_path / "out", **options)
    values = memory_of(tmp_path / "out")
    module = EngramModule(config, EngramTokenizer(config, BPE).vocab_distributions[3])
    mark = "model.layers.3.engram."
    module.load_state_dict(
        {name.removeprefix(mark): value for name, value in values.items() if mark in name}
    )
    out = module(golden["in.hidden_states"], golden["mid.hash_ids"])
    assert_near(out, golden["out"])


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


def test_adapters(base, tmp_path):
    attach.attach(base, tiny.memory_config(), tmp_path / "adapter", init="paper", adapter=True)
    run(tmp_path / "adapter", tmp_path / "small", dtype="fp8")
    with torch.no_grad():
        whole = engram.load(base, tmp_path / "adapter")(IDS).logits
        small = engram.load(base, tmp_path / "small")(IDS).logits
    assert 0 < (whole - small).abs().max() < 0.1
    run(tmp_path / "adapter", tmp_path / "demo", "demo")
    run(tmp_path / "demo", tmp_path / "attached", base=base)
    equal(memory_of(tmp_path / "attached"), memory_of(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("layout", "to", "reason"),
    [
        ("demo", "deepseek_v41", "no convolution, no biases"),
        ("qwen_ple", "deepseek_v41", "compressed ids"),
        ("deepseek_v41", "demo", "adds a convolution"),
        ("demo", "qwen_ple", "raw ids"),
    ],
)
def test_what_another_layout_cannot_express_is_refused(folders, layout, to, reason, tmp_path):
    with pytest.raises(LayoutError, match=reason):
        convert(folders[layout], tmp_path / "x", to, dry_run=True)


def test_what_a_published_format_has_no_tensors_for_is_refused(folders, tmp_path):
    for layout, dtype in (("demo", "fp8"), ("qwen_ple", "int8"), ("deepseek_v41", "int8")):
        with pytest.raises(LayoutError, match=f"no tensors for {dtype}"):
            convert(folders[layout], tmp_path / "x", layout, dtype=dtype, dry_run=True)


def test_v41_tables_in_fp8_are_rows_with_scales_of_their_own(folders, base, tmp_path):
    run(folders["deepseek_v41"], tmp_path / "v41", "deepseek_v41", dtype="fp8")
    with safe_open(next((tmp_path / "v41").glob("*.safetensors")), "pt") as file:
        names = sorted(file.keys())
        assert names[:2] == ["layers.1.engram.embed.scale", "layers.1.engram.embed.weight"]
        weight, scale = (file.get_slice(name) for name in (names[1], names[0]))
        assert (weight.get_dtype(), scale.get_dtype()) == ("F8_E4M3", "F8_E8M0")
        assert scale.get_shape() == [weight.get_shape()[0], 1]
    run(tmp_path / "v41", tmp_path / "back", base=base)
    run(folders["deepseek_v41"], tmp_path / "own", dtype="fp8")
    equal(memory_of(tmp_path / "back"), memory_of(tmp_path / "own"))
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "own"))


def test_memories_of_other_constants_are_refused(folders, base, local_word, tmp_path):
    run(folders["deepseek_v41"], tmp_path / "v41", "deepseek_v41")
    (tmp_path / "v41" / "engram_memory.json").unlink()
    settings = json.loads((tmp_path / "v41" / "config.json").read_text())
    settings["engram_compressed_vocab_size"] += 1
    (tmp_path / "v41" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(MismatchError, match="compressed ids"):
        convert(tmp_path / "v41", tmp_path / "x", base=base, dry_run=True)
    settings["engram_vocab_size"] += 40
    (tmp_path / "v41" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(MismatchError, match=r"embedding\.weight is"):
        convert(tmp_path / "v41", tmp_path / "x", base=base, dry_run=True)
    run(folders["qwen_ple"], tmp_path / "qwen", "qwen_ple")
    for file in (tmp_path / "qwen").glob("*.safetensors"):
        found = load_file(file)
        for name in found:
            if name.endswith("layers.1.ple.ple_embedding.layer_multipliers"):
                found[name][0] += 2
        save_file(found, file)
    with pytest.raises(MismatchError, match="factors"):
        convert(tmp_path / "qwen", tmp_path / "x", base=base, dry_run=True)


def test_options_that_make_no_sense(folders, base, tmp_path):
    run(folders["demo"], tmp_path / "demo", "demo")
    with pytest.raises(UsageError, match="--base MODEL"):
        convert(tmp_path / "demo", tmp_path / "x", dry_run=True)
    with pytest.raises(UsageError, match="attached to its base already"):
        convert(folders["demo"], tmp_path / "x", base=base, dry_run=True)
    with pytest.raises(UsageError, match="the memory alone"):
        convert(folders["demo"], tmp_path / "x", "demo", base=base, dry_run=True)
    with pytest.raises(InputError, match="no memory"):
        convert(base, tmp_path / "x", dry_run=True)


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
dequantise_fp8(*quantise_fp8(torch.randn(9, 64)))
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


def test_fp8_projections_with_a_scale_for_32_rows_become_bfloat16(folders, base, tmp_path):
    run(folders["deepseek_v41"], tmp_path / "v41", "deepseek_v41", dtype="fp8")
    expected = {}
    for file in (tmp_path / "v41").glob("*.safetensors"):
        found = load_file(file)
        for name in [name for name in found if name.endswith("wkv.weight")]:
            scale = torch.randint(118, 124, (2, 1), dtype=torch.uint8).view(torch.float8_e8m0fnu)
            found[name] = (found[name] * 8).to(torch.float8_e4m3fn)
            found[name.replace("weight", "scale")] = scale
            expected[name] = dequantise_fp8(found[name], scale, rows_per_scale=32)
        save_file(found, file)
    index = tmp_path / "v41" / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    for name in expected:
        values["weight_map"][name.replace("weight", "scale")] = values["weight_map"][name]
    index.write_text(json.dumps(values))
    made = run(tmp_path / "v41", tmp_path / "back", base=base)
    after = memory_of(tmp_path / "back")
    assert len(expected) == 2
    for name, value in expected.items():
        assert torch.equal(after[f"model.{name}"], value)
    assert all(loss.max_error == 0 for parts in made.losses().values() for loss in parts.values())
    assert not any(check.ok is False for check in verify(tmp_path / "back"))

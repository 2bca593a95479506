"""Conversions to the names of a published layout, and back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import engram
from engram import EngramConfig
from engram.addressing.tokenizer import EngramTokenizer
from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.verify.verify import verify
from engram.errors import InputError, LayoutError, MismatchError, UsageError
from engram.nn import EngramModule
from engram.nn.quantised import dequantise_fp8
from support import tiny
from support.checked import failed, verdicts
from support.converted import IDS, equal, logits, memory_of, run, tensors
from support.layouts import LAYOUTS, layout_config, random_memory
from support.near import assert_near
from support.paths import BPE, GOLDEN

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


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


def test_v41_tables_with_a_scale_for_32_rows_get_one_for_every_row(folders, base, tmp_path):
    run(folders["deepseek_v41"], tmp_path / "v41", "deepseek_v41", dtype="fp8")
    expected = {}
    for file in (tmp_path / "v41").glob("*.safetensors"):
        found = load_file(file)
        for name in [name for name in found if name.endswith("embed.weight")]:
            blocks = -(-len(found[name]) // 32)
            scales = torch.randint(118, 124, (blocks, 1), dtype=torch.uint8)
            found[name.replace("weight", "scale")] = scales.view(torch.float8_e8m0fnu)
            expected[name.split(".")[1]] = dequantise_fp8(found[name], scales, rows_per_scale=32)
        save_file(found, file)
    made = run(tmp_path / "v41", tmp_path / "back", base=base)
    assert [parts["table"].max_error for parts in made.losses().values()] == [0, 0]
    layers = engram.load(tmp_path / "back").get_decoder().engram_layers
    for layer_id, values in expected.items():
        table = layers[int(layer_id)].engram.multi_head_embedding.embedding
        assert torch.equal(table(torch.arange(len(values))), values.float())


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_shards_of_a_quantised_table_keep_their_own_scales(folders, base, dtype, tmp_path):
    run(folders["qwen_ple"], tmp_path / "small", dtype=dtype)
    run(tmp_path / "small", tmp_path / "wide", dtype="float32")
    run(tmp_path / "small", tmp_path / "published", "qwen_ple", dtype="float32")
    run(tmp_path / "published", tmp_path / "back", base=base)
    equal(memory_of(tmp_path / "back"), memory_of(tmp_path / "wide"))


def test_a_pad_that_only_the_tokenizer_names(base, tmp_path):
    folder = random_memory(base, tmp_path / "attached", "deepseek_v41", pad_id=None)
    run(folder, tmp_path / "v41", "deepseek_v41")
    run(tmp_path / "v41", tmp_path / "again", "deepseek_v41")
    one, other = ((tmp_path / name / "config.json").read_text() for name in ("v41", "again"))
    assert json.loads(one)["engram_pad_token_id"] == 2
    assert one == other


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

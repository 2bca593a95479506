"""Quantised bases: what attach writes, and models that bitsandbytes quantises on the CPU."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.hqq import name_to_linear_tag
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.quantizers.quantizers_utils import should_convert_module

import engram
from engram.backbone.quantisation import METHODS, quantisation_note
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify import behaviour
from engram.checkpoints.verify.behaviour import behaviour_checks
from engram.config.config_file import write_config
from engram.errors import LayoutError, MissingError, MissingPackageError
from engram.hf.quantising import list_without_memory
from support import tiny
from support.cli import run
from support.paths import BPE

IDS = torch.tensor([[5, 9, 2, 31, 17, 200, 63, 8, 9, 2, 31]])
MEMORIES = [f"model.layers.{layer}.engram" for layer in (1, 2)]
NAMES = [f"{path}.{part}" for path in MEMORIES for part in ("value_proj", "key_proj")]
BITS = {
    "4 bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8 bit": {"load_in_8bit": True},
}
SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(autouse=True, scope="module")
def quiet_bitsandbytes():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A base in bfloat16, and a folder with a memory attached to it."""
    folder = tmp_path_factory.mktemp("plain")
    base = tiny.base_model("llama", folder / "base", torch.bfloat16, SIZES)
    config = tiny.memory_config(hidden_size=64)
    return base, tiny.attached_model(base, folder / "attached", config)


@pytest.fixture(scope="module", params=BITS)
def quantised(request, plain, tmp_path_factory):
    """A base that was quantised and saved, and a folder with a memory attached to it."""
    folder = tmp_path_factory.mktemp("quantised")
    base = folder / "base"
    options = BitsAndBytesConfig(**BITS[request.param])
    AutoModelForCausalLM.from_pretrained(plain[0], quantization_config=options).save_pretrained(
        base
    )
    for file in BPE.iterdir():
        shutil.copyfile(file, base / file.name)
    config = tiny.memory_config(hidden_size=64)
    return base, tiny.attached_model(base, folder / "attached", config)


def declared(base, folder, **quantisation):
    """Copy a base whose config.json says that it is quantised."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def memory_dtypes(model):
    return {value.dtype for name, value in model.named_parameters() if ".engram." in name}


def test_a_memory_beside_quantised_weights(quantised):
    base, attached = quantised
    kept = written(attached).pop("llm_int8_skip_modules")
    assert kept == ["lm_head", *MEMORIES]
    assert written(base)["llm_int8_skip_modules"] is None
    expected = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    model = engram.load(attached)
    assert torch.equal(model(IDS).logits, expected)
    assert memory_dtypes(model) == {torch.bfloat16}
    assert (tiny.randomise(model)(IDS).logits - expected).abs().max() > 0.1


def test_every_file_of_a_quantised_base_is_kept(quantised):
    base, attached = quantised
    own = load_file(base / "model.safetensors")
    assert any(name.endswith((".SCB", ".absmax")) for name in own)
    kept = load_file(attached / "model-00001-of-00001.safetensors")
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in own)


def test_verify_of_a_quantised_base(quantised):
    found = {check.name: check for check in behaviour_checks(open_checkpoint(quantised[1]))}
    assert "in bfloat16, as stored: its base is quantised (bitsandbytes)" in found["load"].detail
    assert [name for name, check in found.items() if check.ok is False] == []
    assert all(found[name].ok for name in ("load", "memory responds", "cached = full"))


def test_verify_in_float32_compares_tokens_of_dequantised_weights(plain, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(
        plain[0], dtype=torch.float32, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    model.save_pretrained(tmp_path / "base")
    for file in BPE.iterdir():
        shutil.copyfile(file, tmp_path / "base" / file.name)
    config = tiny.memory_config(hidden_size=64)
    attached = tiny.attached_model(tmp_path / "base", tmp_path / "attached", config)
    found = list(behaviour_checks(open_checkpoint(attached)))
    assert [check.name for check in found if not check.ok] == []


def test_weights_that_stay_quantised_are_judged_coarsely(quantised, monkeypatch):
    monkeypatch.setattr(behaviour, "dequantise", lambda model: False)
    found = {check.name: check for check in behaviour_checks(open_checkpoint(quantised[1]))}
    assert found["greedy"].detail == ("in quantised weights rounding alone changes tokens")
    assert [name for name, check in found.items() if check.ok is False] == []


@pytest.mark.parametrize("bits", BITS)
def test_quantising_on_load(bits, plain):
    base, attached = plain
    given = BitsAndBytesConfig(**BITS[bits])
    before = copy.deepcopy(given.to_dict())
    expected = AutoModelForCausalLM.from_pretrained(base, quantization_config=given)(IDS).logits
    for model in (
        engram.load(attached, quantization_config=given),
        engram.load(attached, quantization_config=given, tables="disk"),
        AutoModelForCausalLM.from_pretrained(attached, quantization_config=given),
        AutoModelForCausalLM.from_pretrained(attached, quantization_config=before),
    ):
        assert torch.equal(model(IDS).logits, expected)
        assert memory_dtypes(model) == {torch.bfloat16}
        assert type(model.lm_head) is torch.nn.Linear
        assert type(model.model.layers[0].mlp.up_proj) is not torch.nn.Linear
    assert given.to_dict() == before


def test_a_skip_list_of_the_user_is_kept(plain):
    given = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["mlp.up_proj"])
    model = engram.load(plain[1], quantization_config=given)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert type(model.lm_head) is not torch.nn.Linear
    assert given.llm_int8_skip_modules == ["mlp.up_proj"]
    assert memory_dtypes(model) == {torch.bfloat16}


def test_a_model_that_was_quantised_on_load_is_saved_and_loaded(plain, tmp_path):
    given = BitsAndBytesConfig(load_in_4bit=True)
    model = tiny.randomise(engram.load(plain[1], quantization_config=given))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(engram.load(tmp_path / "saved")(IDS).logits, model(IDS).logits)


def test_block_fp8(tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    made = tiny.base_model("qwen3", tmp_path / "made", torch.bfloat16, sizes)
    tensors = {}
    for name, weight in load_file(made / "model.safetensors").items():
        if weight.ndim == 2 and ".layers." in name and weight.shape[0] % 128 == 0:
            scale = (weight.float().abs().amax() / 448).bfloat16()
            blocks = [size // 128 for size in weight.shape]
            tensors[name] = (weight.float() / scale.float()).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.expand(blocks).contiguous()
        else:
            tensors[name] = weight
    listed = [re.sub(r"\.weight$", "", it) for it in tensors if tensors[it].dtype == torch.bfloat16]
    base = declared(
        made,
        tmp_path / "base",
        quant_method="fp8",
        weight_block_size=[128, 128],
        ignored_layers=["lm_head", *(it for it in listed if it.endswith("_proj"))],
    )
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = tiny.memory_config(hidden_size=128)
    attached = tiny.attached_model(base, tmp_path / "attached", config)
    assert written(attached)["ignored_layers"][-2:] == MEMORIES
    model = engram.load(attached)
    assert torch.equal(model(IDS).logits, AutoModelForCausalLM.from_pretrained(base)(IDS).logits)
    assert [
        check.name for check in behaviour_checks(open_checkpoint(attached)) if check.ok is False
    ] == []


def test_every_method_of_transformers_is_known():
    methods = {
        name.removesuffix("_4bit").removesuffix("_8bit")
        for name in (AUTO_QUANTIZATION_CONFIG_MAPPING)
    }
    assert methods - {"gguf"} <= METHODS.keys()  # GGUF files are no Hugging Face folders


ENTRIES = {
    "compressed-tensors": [f"re:{re.escape(path)}\\..*" for path in MEMORIES],
    "fouroversix": [
        "lm_head",
        *(f"{path}.{it}" for path in MEMORIES for it in ("value_proj", "key_proj", "conv")),
    ],
    "hqq": ["lm_head", "engram.value_proj", "engram.key_proj", "engram.conv"],
    "quark": [f"{path}.*" for path in MEMORIES],
}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_attach_writes_for_each_method(method, plain, tmp_path):
    base = declared(plain[0], tmp_path / "base", quant_method=method)
    attached = tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    listed = written(attached)[METHODS[method].keys[0]]
    if method == "gptq":
        own = [f"self_attn.{name}_proj" for name in "qkvo"]
        assert listed == [[*own, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]]
        assert not any(name.endswith(tuple(listed[0])) for name in NAMES)
        return
    if method in ("fp_quant", *ENTRIES):
        assert listed == ENTRIES[{"fp_quant": "fouroversix"}.get(method, method)]
        return
    assert listed[-2:] == MEMORIES
    assert ("lm_head" in listed) == (METHODS[method].unset == "kept")
    assert not any(should_convert_module(name, listed) for name in NAMES)
    assert should_convert_module("model.layers.1.mlp.up_proj", listed)
    assert should_convert_module("model.layers.10.engram_like", listed)


def test_tags_of_hqq():
    settings = {
        "config": tiny.memory_config(
            layout="deepseek_v41", kernel_size=0, engram_table_size=[302] * 3, seed=0
        ).to_dict(),
        "addresses": {"layers": [{"layer_id": 1}, {"layer_id": 2}]},
        "layers_path": "transformer.h",
    }
    _, listed = list_without_memory(METHODS["hqq"], {"skip_modules": []}, settings, None)
    assert listed == [name_to_linear_tag("transformer.h.1.engram.wkv")]


def test_a_list_that_is_there_is_extended_once(plain, tmp_path):
    stated = {"quant_method": "awq", "modules_to_not_convert": ["visual", MEMORIES[0]]}
    base = declared(plain[0], tmp_path / "base", **stated)
    attached = tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    assert written(attached)["modules_to_not_convert"] == ["visual", *MEMORIES]
    own = json.loads((attached / "engram_base" / "config.json").read_text())
    assert own["quantization_config"] == stated


def test_an_unknown_method_is_refused(plain, tmp_path):
    base = declared(plain[0], tmp_path / "base", quant_method="of tomorrow")
    with pytest.raises(LayoutError, match="'of tomorrow', whose skip list is unknown"):
        engram.attach(base, tiny.memory_config(hidden_size=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_memory_has_the_dtype_that_a_quantised_base_computes_in(quantised, tmp_path):
    config = json.loads((quantised[1] / "config.json").read_text())
    assert config["engram"]["config"]["table_dtype"] == "bfloat16"
    base = shutil.copytree(quantised[0], tmp_path / "base")
    stated = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**stated, "dtype": "float16"}))
    attached = tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    config = json.loads((attached / "config.json").read_text())
    assert config["engram"]["config"]["table_dtype"] == "float16"


def test_a_missing_package(plain, tmp_path, monkeypatch):
    base = declared(plain[0], tmp_path / "base", quant_method="gptq", bits=4, group_size=128)
    attached = tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    for load in (engram.load, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(MissingPackageError, match="gptq needs the package optimum"):
            load(attached)
    with pytest.raises(MissingPackageError, match="optimum"):
        list(behaviour_checks(open_checkpoint(attached)))
    given = BitsAndBytesConfig(load_in_8bit=True)
    seen = "engram.backbone.quantisation.installed_version"
    monkeypatch.setattr(seen, lambda name: None if name == "bitsandbytes" else "1.0")
    with pytest.raises(MissingPackageError, match="bitsandbytes"):
        engram.load(plain[1], quantization_config=given)


def test_a_package_of_another_version(plain, monkeypatch):
    def refuse(*args, **kwargs):
        raise ImportError("bitsandbytes is too old")

    monkeypatch.setattr("transformers.quantizers.HfQuantizer.preprocess_model", refuse)
    with pytest.raises(MissingError, match="quantised with bitsandbytes .* is too old") as raised:
        engram.load(plain[1], quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert raised.value.exit_code == 4


def test_a_machine_that_the_method_does_not_run_on(plain, tmp_path, monkeypatch):
    base = declared(plain[0], tmp_path / "base", quant_method="spqr")
    attached = tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    monkeypatch.setattr("engram.backbone.quantisation.missing_packages", lambda name: [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = behaviour_checks(open_checkpoint(attached))
    assert (found.name, found.ok) == ("load", None)
    assert "GPU is required to run SpQR" in found.detail


def test_commands(plain, tmp_path):
    base = declared(plain[0], tmp_path / "base", quant_method="gptq", bits=4, group_size=128)
    write_config(tmp_path / "memory.yaml", tiny.memory_config(hidden_size=64))
    attach = ["attach", base, "-c", tmp_path / "memory.yaml", "-o", tmp_path / "out"]
    done = run(*attach, "--verify").ended(4)
    assert not (tmp_path / "out").exists()
    assert "pip install optimum" in done.stderr
    done = run(*attach).ended()
    assert "quantised with gptq; the memory is not. Loading needs optimum" in done.stderr
    run("verify", tmp_path / "out", "--headers-only").ended()
    assert "optimum" in run("verify", tmp_path / "out").ended(4).stderr


def test_what_a_report_says_of_a_quantised_base(plain, quantised):
    params = AutoModelForCausalLM.from_pretrained(plain[0]).num_parameters()
    found = inspect_checkpoint(quantised[1])
    (part,) = [part for part in found.weights if part.group == "base"]
    assert part.params == params
    assert part.size_bytes < 2 * params
    assert found.notes == (
        "the base is quantised with bitsandbytes; its parameters follow from its config",
    )
    assert quantisation_note({"model_type": "llama"}) is None


@pytest.mark.parametrize("quantisation", [{}, {"bits": 4}, {"quant_method": None}])
def test_a_method_without_a_name_is_refused(plain, tmp_path, quantisation):
    base = declared(plain[0], tmp_path / "base", **quantisation)
    with pytest.raises(LayoutError, match="does not name its quant_method"):
        tiny.attached_model(base, tmp_path / "out", tiny.memory_config(hidden_size=64))
    assert not (tmp_path / "out").exists()

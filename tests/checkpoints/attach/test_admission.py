"""Bases that attach refuses before it writes, bases that it admits, and what verify says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from engram import EngramConfig
from engram.backbone.claims import check_claims, stored_depths
from engram.backbone.find_backbone import load_backbone
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.proof import check_loads, max_logit_difference
from engram.checkpoints.verify.verify import verify
from engram.config.config_file import write_config
from engram.errors import ConfigError, EngramError, LayoutError
from engram.hf.wiring import find_layers
from support import more_families, tiny
from support.cli import run
from support.paths import BPE

_SHAPE = tiny.SIZES["llama"]
_STATES = {"state_size": 8, "num_hidden_layers": 3, "hidden_size": 32}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_HEADS = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_LINEAR = {
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}


def small_base(model_type: str, folder: Path, sizes: dict[str, object], auto: type) -> Path:
    """Save a random model of any type, with a tokenizer."""
    sizes = {"vocab_size": tiny.VOCAB, **sizes}
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(model_type, **sizes))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    for file in BPE.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def change_config(folder: Path, **changes: object) -> Path:
    """Change keys of a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def refusal(base: Path, config: EngramConfig | None = None) -> EngramError:
    """Attach, expecting a refusal that leaves nothing; a dry run refuses in the same words."""
    output = base.parent / "out"
    with pytest.raises(EngramError) as planned:
        attach.attach(base, config or tiny.memory_config(), output, dry_run=True)
    with pytest.raises(EngramError) as caught:
        attach.attach(base, config or tiny.memory_config(), output)
    assert str(planned.value) == str(caught.value)
    assert sorted(path.name for path in base.parent.iterdir()) == [base.name]
    return caught.value


@pytest.fixture
def llama(tmp_path):
    return tiny.base_model("llama", tmp_path / "work" / "base")


@pytest.fixture
def attached(llama, tmp_path):
    return tiny.attached_model(llama, tmp_path / "attached")


_BART = {
    **{"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "max_position_embeddings": 128},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
}


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("bart", _BART),
        ("pegasus", _BART),
        ("marian", {**_BART, "decoder_vocab_size": tiny.VOCAB, "pad_token_id": 2}),
        ("t5", {"d_model": 32, "d_ff": 48, "num_layers": 3, "num_heads": 4, "d_kv": 8}),
    ],
)
def test_encoder_decoders_are_refused(tmp_path, model_type, sizes):
    base = small_base(model_type, tmp_path / "work" / "base", sizes, AutoModelForSeq2SeqLM)
    error = refusal(base)
    assert error.exit_code == 3
    assert "encoder-decoder" in error.message
    assert model_type in error.message


def test_the_decoder_of_an_encoder_decoder_alone_is_refused(tmp_path):
    base = small_base("bart", tmp_path / "work" / "base", _BART, AutoModelForCausalLM)
    assert not json.loads((base / "config.json").read_text())["is_encoder_decoder"]
    assert "cross-attention" in refusal(base).message


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "big_bird"])
def test_bidirectional_encoders_are_refused(tmp_path, model_type):
    base = small_base(model_type, tmp_path / "work" / "base", _SHAPE, AutoModelForCausalLM)
    assert "bidirectional" in refusal(base).message


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("mamba", _STATES),
        ("falcon_mamba", _STATES),
        ("mamba2", {**_STATES, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}),
        ("rwkv", {**_STATES, "attention_hidden_size": 32}),
        ("xlstm", {"hidden_size": 64, "num_blocks": 3, "num_hidden_layers": 3, "num_heads": 4}),
        ("openai-gpt", {"n_embd": 32, "n_layer": 3, "n_head": 4}),
    ],
)
def test_families_whose_cache_counts_no_tokens_are_refused(tmp_path, model_type, sizes):
    base = small_base(model_type, tmp_path / "work" / "base", sizes, AutoModelForCausalLM)
    error = refusal(base, tiny.memory_config(hidden_size=sizes.get("hidden_size", 32)))
    assert "no cache that counts tokens" in error.message
    assert error.exit_code == 3


def test_streams_inside_the_layers_are_refused(tmp_path):
    sizes = {
        **{**_SHAPE, **_HEADS, "num_kv_shared_layers": 0, "laurel_rank": 8},
        **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": tiny.VOCAB},
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0] * 3,
    }
    base = small_base("gemma3n_text", tmp_path / "work" / "base", sizes, AutoModelForCausalLM)
    assert "4 streams inside its layers (altup_num_inputs)" in refusal(base).message


def test_a_multimodal_type_is_not_told_to_upgrade(llama):
    text = json.loads((llama / "config.json").read_text())
    config = {
        **{"model_type": "glm4v", "architectures": ["Glm4vForConditionalGeneration"]},
        **{"text_config": {**text, "model_type": "glm4v_text"}, "vision_config": {}},
    }
    (llama / "config.json").write_text(json.dumps(config))
    error = refusal(llama)
    assert "multimodal" in error.message
    assert "upgrade" not in str(error)
    assert "pip install" not in str(error)
    assert "a model for text only" in error.hint


def test_a_type_without_a_causal_head(llama):
    change_config(llama, model_type="distilbert")
    error = refusal(llama)
    assert "no causal language model for the known type 'distilbert'" in error.message
    assert "pip install" not in error.hint


def test_a_type_that_a_newer_transformers_may_have(llama):
    assert (
        "pip install 'transformers" in refusal(change_config(llama, model_type="of_next_year")).hint
    )


def test_an_auto_map_that_is_not_an_object_names_no_code(llama, tmp_path):
    change_config(llama, auto_map=["AutoModelForCausalLM"])
    plan = attach.attach(llama, tiny.memory_config(), tmp_path / "out", dry_run=True).plan
    assert plan.base.code is None


def test_a_pointer_of_git_lfs_is_called_that(llama):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (llama / "model.safetensors").write_text(text)
    error = refusal(llama)
    assert "Git LFS pointer" in error.message
    assert error.hint == "Get them: git lfs pull"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_lora_in_the_bases_folder_is_refused(llama, alone, file):
    (llama / file).write_text("{}")
    if alone:
        (llama / "config.json").unlink()
        (llama / "model.safetensors").unlink()
    error = refusal(llama)
    assert file in error.message
    assert "merge_and_unload" in error.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 4}, ["num_hidden_layers", "is 4", "3 in model.layers"]),
        ({"num_hidden_layers": 2}, ["num_hidden_layers", "is 2", "3 in model.layers"]),
        ({"vocab_size": 600}, ["vocab_size", "600"]),
        ({"hidden_size": 64}, ["hidden_size", "64"]),
        ({"intermediate_size": 80}, ["intermediate_size", "80"]),
        ({"num_key_value_heads": 4}, ["k_proj.weight", "[16, 32]", "[32, 32]"]),
        ({"mlp_bias": True}, ["mlp.down_proj.bias", "would be random"]),
        ({"hidden_act": "no_such"}, ["transformers cannot build", "no_such"]),
        ({"num_attention_heads": 0}, ["transformers cannot build", "ZeroDivisionError"]),
        ({"num_attention_heads": 5}, ["transformers cannot build"]),
        ({"num_hidden_layers": "7"}, ["num_hidden_layers", "must be a whole number"]),
    ],
)
def test_a_config_of_other_weights_is_refused(llama, changes, words):
    error = refusal(change_config(llama, **changes))
    assert error.exit_code == 3
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_that_transformers_merges(tmp_path, model_type):
    base = tiny.base_model(model_type, tmp_path / "work" / "base")
    checks = verify(tiny.attached_model(base, tmp_path / "out"))
    assert next(check for check in checks if check.name == "base weights").ok
    error = refusal(change_config(base, num_local_experts=5))
    assert "experts" in error.message
    assert "[5, " in error.message


def test_a_tensor_that_is_gone(llama):
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, llama / "model.safetensors", {"format": "pt"})
    error = refusal(llama)
    assert "model.layers.1.mlp.up_proj.weight is in no file" in error.message


def test_tied_weights_and_left_over_buffers_are_no_fault(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base", sizes={"tie_word_embeddings": True})
    tensors = load_file(base / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    checks = verify(tiny.attached_model(base, tmp_path / "out"))
    assert next(check for check in checks if check.name == "base weights").ok


def test_layers_that_predict_further_tokens_are_no_fault():
    shapes = {f"model.layers.{layer}.norm.weight": (32,) for layer in range(4)}
    config = {"num_hidden_layers": 3, "hidden_size": 32, "num_nextn_predict_layers": 1}
    check_claims(config, shapes, "config.json")
    with pytest.raises(ConfigError, match="the weights hold 4 in model"):
        check_claims({**config, "num_nextn_predict_layers": 0}, shapes, "config.json")


def test_depths_are_those_of_the_outermost_lists():
    names = ["a.layers.0.experts.7.w", "a.layers.1.w", "vision.blocks.2.attn.0.w", "head.weight"]
    assert stored_depths(names) == {"a.layers": 2, "vision.blocks": 3}


@pytest.mark.parametrize("value", [2**53, 100_000])
@pytest.mark.parametrize("key", ["num_hidden_layers", "num_local_experts", "hidden_size"])
def test_absurd_counts_are_refused_before_anything_is_built(tmp_path, monkeypatch, key, value):
    base = tiny.base_model("mixtral", tmp_path / "work" / "base")
    folder = tiny.attached_model(base, tmp_path / "attached")
    for name in (base, folder):
        change_config(name, **{key: value})

    def build(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model is built")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", build)
    with pytest.raises(ConfigError, match=str(value)):
        load_backbone(base)
    assert str(value) in refusal(base).message
    checks = {check.name: check for check in verify(folder)}
    assert checks["base config"].ok is False
    assert str(value) in checks["base config"].detail
    assert "load" not in checks


def test_a_depth_without_weights_is_bounded(tmp_path):
    config = {"model_type": "stablelm", "hidden_size": 32, "vocab_size": 544}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 100_000}))
    with pytest.raises(ConfigError, match="which no model has"):
        load_backbone(tmp_path)


def test_nothing_is_read_and_nothing_is_held(llama, tmp_path):
    base = attach.read_base(llama)
    attachment = attach.attach(llama, tiny.memory_config(), tmp_path / "out", dry_run=True).plan
    tensors = {
        **base.tensors,
        **{it.name: (it.tag, it.shape) for _, shard in attachment.shards for it in shard},
    }
    # 35 GB, were they held.
    wide = {"intermediate_size": 10**8, "engram": attachment.model_config["engram"]}
    config = {**attachment.model_config, **wide}
    before = {name: shape for name, shape in tensors.items() if ".mlp." not in name}
    made = {
        f"model.layers.{layer}.mlp.{part}.weight": ("F32", shape)
        for layer in range(3)
        for part, shape in {
            **dict.fromkeys(("gate_proj", "up_proj"), (10**8, 32)),
            "down_proj": (32, 10**8),
        }.items()
    }
    check_loads(llama, attachment.classes, config, before | made)
    made.pop("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(LayoutError, match=r"up_proj\.weight is in no file"):
        check_loads(llama, attachment.classes, config, before | made)


def test_verify_fails_a_base_that_would_be_random(attached):
    assert all(check.ok is not False for check in verify(attached))
    file = next(attached.glob("model-*.safetensors"))
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    index = attached / "model.safetensors.index.json"
    stated = json.loads(index.read_text())
    del stated["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    index.write_text(json.dumps(stated))
    checks = {check.name: check for check in verify(attached)}
    assert checks["base config"].ok
    assert checks["base weights"].ok is False
    assert "model.layers.1.mlp.up_proj.weight" in checks["base weights"].detail
    assert "memory responds" not in checks


def test_verify_judges_the_depth_from_headers(attached):
    change_config(attached, num_hidden_layers=4)
    checks = {check.name: check for check in verify(attached, headers_only=True)}
    assert checks["base config"].ok is False
    assert "num_hidden_layers is 4" in checks["base config"].detail


@pytest.mark.parametrize("dry", [True, False])
def test_the_command_says_it_to_programs(llama, tmp_path, dry):
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    change_config(llama, num_key_value_heads=4)
    words = ["attach", llama, "-c", tmp_path / "memory.yaml", "-o", tmp_path / "out", "--json"]
    told = run(*words, "--dry-run" if dry else "--verify").error(3)
    assert "bug in engram" not in told["message"]
    assert "self_attn.k_proj.weight" in told["details"]["tensors"][0]
    assert not (tmp_path / "out").exists()


def test_a_base_that_does_not_run_is_not_our_bug(tmp_path):
    # Rotary embeddings of another width than the heads': it is built and loaded, and cannot run.
    base = tiny.base_model("deepseek_v3", tmp_path / "base")
    change_config(base, head_dim=16)
    folder = tiny.attached_model(base, tmp_path / "out")
    checks = {check.name: check for check in verify(folder)}
    assert checks["base weights"].ok
    assert checks["forward"].ok is None
    assert checks["forward"].detail.startswith("not with the base alone either")
    with pytest.raises(LayoutError, match="transformers cannot run"):
        max_logit_difference(base, folder)


# Families whose layers are not where most have them, and those with layers of recurrent states.
ADMITTED = [
    *("llama4_text", "longcat_flash", "modernbert-decoder", "nemotron_h"),
    *("jamba", "lfm2", "qwen3_next"),
]


@pytest.mark.parametrize("model_type", ADMITTED)
def test_a_family_is_sized_and_its_layers_are_found(tmp_path, model_type):
    base = tiny.base_model(model_type, tmp_path / "base", sizes=more_families.SIZES[model_type])
    backbone = load_backbone(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert backbone.num_layers == len(find_layers(model)[1])
    # Routers' corrections are stored in floating point, too, and are no parameters.
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params <= backbone.params <= params + 32
    checks = verify(tiny.attached_model(base, tmp_path / "out"))
    assert next(check for check in checks if check.name == "base weights").ok

"""Facts about base models: every count against the real model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engram.backbone import Backbone, catalogue_names, load_backbone
from engram.backbone.activations import Decoder
from engram.backbone.families import FAMILIES
from engram.backbone.find_backbone import read_catalogue
from support.backbones import TINY, counted, write_config

# As published: the totals that the hub shows for these checkpoints, tied weights once.
PUBLISHED = {
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-xl": 1_557_611_200,
    "distilbert/distilgpt2": 81_912_576,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-0325-32B": 32_234_279_936,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-12b": 11_846_072_320,
    # The published 671,026,419,200 less the 58 x 256 routing biases, which are buffers.
    "deepseek-ai/DeepSeek-V3": 671_026_404_352,
}
LATENT = {"kv_lora_rank": 10, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 8}
ODD_CONFIGS = {
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_inner": 50, "n_positions": 33},
    "gpt2 untied": {"n_embd": 48, "n_layer": 1, "n_head": 4, "tie_word_embeddings": False},
    "llama": TINY,
    "llama biased": {**TINY, "attention_bias": True, "mlp_bias": True, "head_dim": 20},
    "llama no kv": {**TINY, "num_key_value_heads": None},
    "mistral": {**TINY, "head_dim": 16, "tie_word_embeddings": True},
    "mixtral": {**TINY, "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2": TINY,
    "qwen3": {**TINY, "attention_bias": True},
    "qwen3_moe": {**TINY, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2},
    "qwen3_moe mixed": {
        **TINY,
        "num_hidden_layers": 6,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    },
    "gemma2": {**TINY, "head_dim": 16, "attention_bias": True},
    "gemma3_text": {**TINY, "head_dim": 16},
    "phi3": {**TINY, "pad_token_id": 0},
    "olmo2": {**TINY, "attention_bias": True},
    "gpt_neox": {**TINY, "num_key_value_heads": None},
    "gpt_neox no bias": {**TINY, "attention_bias": False, "tie_word_embeddings": True},
    "smollm3": {**TINY, "pad_token_id": 0, "mlp_bias": True},
    "deepseek_v3": {**TINY, **LATENT, "num_key_value_heads": 4, "q_lora_rank": 12,
                    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
                    "n_shared_experts": 2, "first_k_dense_replace": 1, "attention_bias": True},
    "deepseek_v3 full queries": {**TINY, **LATENT, "num_key_value_heads": 4, "q_lora_rank": None,
                                 "n_routed_experts": 8, "first_k_dense_replace": 2},
}  # fmt: skip


def build(config: dict):
    """The real model on the meta device."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    config_object = CONFIG_MAPPING[config["model_type"]].from_dict(kept)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_object)


def sizes(model) -> tuple[int, int, int]:
    """All parameters, those of the vocabulary, and those that one token uses."""
    params = {name: parameter.numel() for name, parameter in model.named_parameters()}
    vocabulary = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    routed = sum(size for name, size in params.items() if ".experts." in name)
    experts = getattr(model.config, "num_local_experts", 0) or 1
    idle = routed // experts * (experts - getattr(model.config, "num_experts_per_tok", 0))
    total = sum(params.values())
    return total, sum(weight.numel() for weight in vocabulary), total - (idle if routed else 0)


def distinct_entries() -> list:
    """Catalogue entries whose sizes differ from those before them."""
    seen, entries = set(), []
    for name, config, _ in read_catalogue().values():
        key = json.dumps({k: v for k, v in config.items() if not k.endswith("token_id")})
        if key not in seen:
            entries.append(pytest.param(name, config, id=name))
        seen.add(key)
    return entries


@pytest.mark.parametrize(("name", "config"), distinct_entries())
def test_catalogue_counts_equal_the_real_model(name, config):
    assert counted(load_backbone(name)) == sizes(build(config))


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items())
def test_catalogue_counts_equal_published_ones(name, params):
    assert load_backbone(name).params == params


@pytest.mark.parametrize("case", ODD_CONFIGS)
def test_family_counts_equal_the_real_model(case):
    config = {"model_type": case.partition(" ")[0], **ODD_CONFIGS[case]}
    assert counted(Backbone.from_config(config, "odd", "test")) == sizes(build(config))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_family_defaults_are_those_of_transformers(model_type):
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    # What the class does not know cannot decide a count; None stands for "derived from others".
    expected = {
        key: (getattr(config, key, value), value)
        for key, value in FAMILIES[model_type].defaults.items()
    }
    renamed = {"intermediate_size": "n_inner"} if model_type == "gpt2" else {}
    for key, (theirs, ours) in expected.items():
        theirs = getattr(config, renamed[key]) if key in renamed else theirs
        derived = {"num_key_value_heads": config.num_attention_heads, "mlp_only_layers": []}
        derived["head_dim"] = config.hidden_size // config.num_attention_heads
        if FAMILIES[model_type].latent_attention:
            derived["head_dim"] = config.qk_rope_head_dim
        assert theirs == (derived.get(key) if ours is None and theirs is not None else ours), key


def test_mixture_of_experts_uses_fewer_parameters_per_token():
    assert load_backbone("Qwen3-30B-A3B").active_params == 3_353_032_704
    assert load_backbone("Mixtral-8x7B-v0.1").active_params == 12_879_925_248
    assert load_backbone("DeepSeek-V3").active_params == 37_552_282_624


def test_gpt2_facts():
    gpt2 = load_backbone("gpt2")
    assert gpt2 == Backbone(
        name="openai-community/gpt2",
        source="catalogue",
        model_type="gpt2",
        hidden_size=768,
        num_layers=12,
        vocab_size=50257,
        params=124_439_808,
        embedding_params=50257 * 768,
        active_params=124_439_808,
        tokenizer_vocab_size=50257,
        bos_token_id=50256,
        eos_token_id=50256,
        dtype="float32",
        float_dtype="float32",
        decoder=Decoder(
            model_type="gpt2",
            layers=12,
            hidden=768,
            feed_forward=3072,
            heads=12,
            key_heads=12,
            head=64,
            vocab=50257,
            experts=0,
            cached=2 * 768,
            window=None,
            window_layers=0,
            full_layers=12,
            positions=1024,
        ),
    )


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("GPT2", "openai-community/gpt2"),
        ("OpenAI-Community/GPT2", "openai-community/gpt2"),
        ("qwen/qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
    ],
)
def test_catalogue_names_in_any_case_with_and_without_organisation(spelling, name):
    assert load_backbone(spelling).name == name
    assert name in catalogue_names()


def test_short_names_are_unique():
    short = [name.rpartition("/")[2].lower() for name in catalogue_names()]
    assert len(set(short)) == len(short) == len(catalogue_names())


def test_a_folder_of_a_catalogue_name_needs_an_explicit_path(tmp_path, monkeypatch):
    config = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 1, "n_head": 2}
    for folder in ("gpt2", "openai-community/gpt2", "mine"):
        write_config(tmp_path / folder, config)
    monkeypatch.chdir(tmp_path)
    assert load_backbone("gpt2").source == "catalogue"
    for path in ("./gpt2", "openai-community/gpt2", str(tmp_path / "gpt2"), "mine", Path("gpt2")):
        assert load_backbone(path).source == str(Path(path))
    assert load_backbone("mine/config.json").name == "mine"
    assert load_backbone("mine").tokenizer_vocab_size is None


def test_text_config_comes_first_and_defaults_fill_in(tmp_path):
    # As released for the 4B model: what equals the default is left out.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34}  # fmt: skip
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152},
             "eos_token_id": [1, 106], "torch_dtype": "bfloat16"}  # fmt: skip
    backbone = load_backbone(write_config(tmp_path / "gemma", outer))
    assert backbone.params == load_backbone("gemma-3-4b-pt").params == 3_880_263_168
    assert (backbone.eos_token_id, backbone.pad_token_id, backbone.dtype) == (1, 0, "bfloat16")


def test_streams_token_ids_and_attached_types():
    config = {**TINY, "model_type": "engram_llama", "hc_count": 4, "pad_token_id": -1,
              "eos_token_id": [], "dtype": "torch.float16"}  # fmt: skip
    backbone = Backbone.from_config(config, "mine", "test")
    assert (backbone.model_type, backbone.hc_mult, backbone.dtype) == ("llama", 4, "float16")
    assert (backbone.pad_token_id, backbone.bos_token_id, backbone.eos_token_id) == (None, 1, None)
    assert load_backbone("DeepSeek-V3").dtype == "fp8"


def test_the_catalogue_needs_no_heavy_package():
    code = (
        "import sys; from engram.backbone import load_backbone; load_backbone('gpt2');"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'tokenizers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

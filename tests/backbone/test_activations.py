"""Caches and activations of decoders: against what torch's hooks and transformers' caches hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

import engram
from engram.backbone import load_backbone
from engram.backbone.activations import Decoder

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"n_embd": 64, "n_inner": 160, "n_layer": 3, "n_head": 4, "vocab_size": 96}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "smollm3": {},
    "phi3": {"head_dim": 16},
    "olmo2": {},
    "gemma2": {},
    "gemma3_text": {},
    "gpt_neox": {"num_key_value_heads": None},
    "gpt2": {"n_positions": 64, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        **{"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 80},
        **{"decoder_sparse_step": 1, "mlp_only_layers": []},
    },
}
BATCH, CONTEXT = 2, 24


def build(folder, model_type, dtype, **changes):
    """Return a tiny model of a family, and what its config.json says of its decoder."""
    shape = _GPT2 if model_type == "gpt2" else SHAPE
    keys = {**shape, **FAMILIES[model_type], **changes}
    if model_type == "gpt2":
        keys.update(bos_token_id=1, eos_token_id=2, pad_token_id=None)
    config = AutoConfig.for_model(model_type, **keys)
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **keys, "model_type": model_type}))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model, load_backbone(folder).decoder


def kept_by_torch(model, is_frozen):
    """Return the bytes of distinct storages that autograd keeps of a forward pass with its loss."""
    weights = {it.untyped_storage().data_ptr() for it in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    model.train().requires_grad_(not is_frozen)
    ids = torch.randint(0, 96, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(1))
    if is_frozen:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        given = {"inputs_embeds": embedded}
    else:
        given = {"input_ids": ids}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**given, labels=ids, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("is_frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_kept_bytes_are_those_of_torch(tmp_path, model_type, dtype, is_frozen):
    """A layer more keeps what is said, and a row more of the vocabulary; the rest is small."""
    seen, said = [], []
    for layers in (1, 4):
        name = "n_layer" if model_type == "gpt2" else "num_hidden_layers"
        folder = tmp_path / str(layers)
        model, decoder = build(folder, model_type, dtype, **{name: layers})
        seen.append(kept_by_torch(model, is_frozen))
        kept = decoder.kept_bytes(CONTEXT, dtype.itemsize, is_frozen=is_frozen)
        said.append(BATCH * CONTEXT * kept)
    routing = 0.04 if decoder.experts else 0.0  # some bytes of indices, much beside such widths
    assert said[1] - said[0] == pytest.approx(seen[1] - seen[0], rel=0.02 + routing)
    logits = BATCH * CONTEXT * decoder.logits_bytes(dtype.itemsize)
    rest = seen[0] - said[0] - logits
    assert -(0.02 + routing) * seen[0] <= rest < BATCH * CONTEXT * 64 * 4 * 8


@pytest.mark.parametrize("model_type", FAMILIES)
def test_cache_bytes_are_those_of_transformers(tmp_path, model_type):
    model, decoder = build(tmp_path, model_type, torch.float32)
    cache = DynamicCache(config=model.config)
    ids = torch.randint(3, 96, (1, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model(input_ids=ids, cache=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert decoder.cache_bytes(CONTEXT, 4) == held


@pytest.mark.parametrize(
    ("name", "context", "expected"),
    [
        # 2 x 8 heads x 64 wide x 16 layers x 2 bytes.
        ("llama-3.2-1b", 4096, 4096 * 32_768),
        # 2 x 128 heads of keys (192) and values (128) in 61 layers, expanded, bfloat16.
        ("deepseek-v3", 10, 10 * 61 * 128 * 320 * 2),
        # 26 layers, of which every sixth sees all; 512 positions in the rest.
        ("gemma-3-1b-pt", 4096, (4 * 4096 + 22 * 512) * 2 * 256 * 2),
        ("mistral-7b-v0.1", 8192, 32 * 4096 * 2 * 1024 * 2),
        ("mistral-7b-v0.3", 8192, 32 * 8192 * 2 * 1024 * 2),
    ],
)
def test_caches_of_the_catalogue(name, context, expected):
    assert load_backbone(name).decoder.cache_bytes(context, 2) == expected


SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 100, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "more",
    [
        {"num_attention_heads": None},
        {"num_key_value_heads": [1, 1, 2, 4]},
        {"num_key_value_heads": -2},
        {"head_dim": "16"},
        {"intermediate_size": [128] * 4},
        {"num_experts": [4], "num_experts_per_tok": [2]},
        {"kv_lora_rank": 16},
    ],
    ids=str,
)
def test_widths_that_a_config_does_not_tell_are_unknown(tmp_path, more):
    """Families that the toolkit does not know state widths by layer, or not at all."""
    config = {"model_type": "unheard-of", **SIZES, **more}
    assert Decoder.from_keys(config, "unheard-of") is None
    names = ["model.embed_tokens.weight", *(f"model.layers.{n}.up.weight" for n in range(4))]
    save_file({name: torch.ones(100, 64) for name in names}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    use = engram.size(tmp_path, engram.SizeOptions(device_memory=10**9)).trial.use
    assert not any(row.kind == "estimated" for row in use.rows)
    assert "not counted: activations, key-value cache, the framework" in use.assumptions


def test_positions_that_are_no_number_are_unknown():
    decoder = Decoder.from_keys({**SIZES, "max_position_embeddings": [4096]}, "x")
    assert decoder is not None
    assert decoder.positions is None
    assert Decoder.from_keys({**SIZES, "kv_lora_rank": None}, "x") == Decoder.from_keys(SIZES, "x")


@pytest.mark.parametrize(
    ("types", "positions"),
    [
        (["linear_attention"] * 3 + ["full_attention"], 100),
        (["sliding_attention"] * 3 + ["full_attention"], 3 * 10 + 100),
        (["conv", "full_attention"] * 2, 2 * 100),
        (["mamba", "mamba", "mamba", "attention"], 100),
    ],
)
def test_layers_with_a_state_of_fixed_size_cache_no_positions(types, positions):
    decoder = Decoder.from_keys({**SIZES, "layer_types": types, "sliding_window": 10}, "x")
    assert decoder.cache_bytes(100, 2) == positions * 2 * 64 * 2


def test_layers_of_nemotron_by_letter():
    decoder = Decoder.from_keys({**SIZES, "hybrid_override_pattern": "M-M*"}, "nemotron_h")
    assert decoder.cache_bytes(100, 2) == 100 * 2 * 64 * 2


def test_two_attentions_of_a_layer_cache_twice():
    """longcat_flash counts the attentions in num_hidden_layers."""
    decoder = Decoder.from_keys({**SIZES, "num_hidden_layers": 2}, "longcat_flash", 4)
    assert decoder.layers == 2
    assert decoder.cache_bytes(100, 2) == 4 * 100 * 2 * 64 * 2

"""Parameter counts of causal language models: in closed form, else from their stored tensors.

Shapes: D hidden width, F width of a feed-forward part. A projection to X columns has D * X weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.backbone.families import FAMILIES, Family
from engram.backbone.mixture import Mixture
from engram.errors import LayoutError
from engram.storage.stored import read_folder_headers
from engram.tensor_names import is_memory

PACKED_DTYPES = ("I8", "U8", "I32")  # several quantised weights per value, or their codes


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameter counts of a model; tied weights count once.

    Attributes:
        params: All of them.
        embedding_params: Those of the vocabulary embedding, and of the head if it is not tied.
        active_params: Those that one token uses: all except routed experts it is not sent to.
        mixture: Its routed experts; None for a dense model.
    """

    params: int
    embedding_params: int
    active_params: int
    mixture: Mixture | None = None


def count(family: Family, config: Mapping[str, Any]) -> Counts:
    """Count the parameters of a causal language model.

    Args:
        family: The structure of the model.
        config: Config keys under their canonical names, with the family's defaults filled in.
    """
    hidden: int = config["hidden_size"]
    layers: int = config["num_hidden_layers"]
    attend = _latent_attention if family.latent_attention else _attention
    mixture, always_used = _experts(family, config)
    dense_layers = layers - (mixture.layers if mixture else 0)
    body = (
        layers * (attend(family, config) + family.hidden_norms * family.norm_vectors * hidden)
        + dense_layers * _mlp(family, config, config["intermediate_size"] or 4 * hidden)
        + always_used
        + family.norm_vectors * hidden
        + (config["max_position_embeddings"] * hidden if family.learned_positions else 0)
    )
    embedding = (1 if config["tie_word_embeddings"] else 2) * config["vocab_size"] * hidden
    routed = mixture.expert_params * mixture.experts if mixture else 0
    params = body + embedding + routed
    return Counts(
        params=params,
        embedding_params=embedding,
        active_params=params - (mixture.idle_params if mixture else 0),
        mixture=mixture,
    )


def _has_bias(setting: bool | str, config: Mapping[str, Any]) -> bool:
    return bool(config[setting]) if isinstance(setting, str) else setting


def _mlp(family: Family, config: Mapping[str, Any], width: int) -> int:
    """Count a feed-forward part of width F: one or two matrices [F, D], then one [D, F]."""
    hidden: int = config["hidden_size"]
    inner = 2 if family.gated_mlp else 1
    bias = inner * width + hidden if _has_bias(family.mlp_bias, config) else 0
    return (inner + 1) * hidden * width + bias


def _attention(family: Family, config: Mapping[str, Any]) -> int:
    hidden: int = config["hidden_size"]
    heads: int = config["num_attention_heads"]
    kv_heads, head = heads, hidden // heads
    if family.grouped_heads:
        kv_heads = config["num_key_value_heads"] or heads
        head = config["head_dim"] or head
    queries, keys = heads * head, kv_heads * head
    qkv_bias = queries + 2 * keys if _has_bias(family.qkv_bias, config) else 0
    output_bias = hidden if _has_bias(family.output_bias, config) else 0
    norms = {"none": 0, "head": 2 * head, "projection": queries + keys}[family.qk_norm]
    return hidden * (2 * queries + 2 * keys) + qkv_bias + output_bias + norms


def _latent_attention(family: Family, config: Mapping[str, Any]) -> int:
    """Count attention with low-rank queries and keys, each with its norm (DeepSeek-V3)."""
    hidden: int = config["hidden_size"]
    heads: int = config["num_attention_heads"]
    q_rank: int | None = config["q_lora_rank"]
    kv_rank: int = config["kv_lora_rank"]
    rope: int = config["qk_rope_head_dim"]
    nope: int = config["qk_nope_head_dim"]
    values: int = heads * config["v_head_dim"]
    queries = heads * (nope + rope)
    q_weights = hidden * q_rank + q_rank + q_rank * queries if q_rank else hidden * queries
    kv_weights = hidden * (kv_rank + rope) + kv_rank + kv_rank * (heads * nope + values)
    bias = (q_rank or 0) + kv_rank + rope + hidden if config["attention_bias"] else 0
    return q_weights + kv_weights + values * hidden + bias


def _experts(family: Family, config: Mapping[str, Any]) -> tuple[Mixture | None, int]:
    """Count routed experts, and the parameters of their layers that all tokens use."""
    if family.expert_width is None or not config["num_experts"]:
        return None, 0
    step: int = config.get("decoder_sparse_step", 1)
    dense: list[int] = config.get("mlp_only_layers") or []
    candidates = range(config.get("first_k_dense_replace") or 0, config["num_hidden_layers"])
    layers = sum((layer + 1) % step == 0 and layer not in dense for layer in candidates)
    if not layers:
        return None, 0
    width: int = config[family.expert_width]
    mixture = Mixture.from_keys(
        config,
        layers=layers,
        expert_params=layers * _mlp(family, config, width),
        router_params=layers * config["hidden_size"],
    )
    shared = _mlp(family, config, width * mixture.shared)
    return mixture, mixture.experts * mixture.router_params + layers * shared


def count_stored(
    folder: Path | None, config: Mapping[str, Any], name: str, model_type: str
) -> Counts:
    """Count a folder's stored parameters: the floating-point tensors in its headers.

    Rotary frequencies, a second copy of a tied head, and an attached memory are left out.

    Args:
        folder: A Hugging Face folder; None for a model without one.
        config: Its config under canonical names.
        name: The model's name, for the message.
        model_type: Its type, likewise.

    Raises:
        CorruptFileError: A file is torn or inconsistent.
        MissingFileError: A shard is missing.
        LayoutError: There are no safetensors weights, they are packed into integers, or experts
            cannot be counted.
    """
    headers = None if folder is None else read_folder_headers(folder)
    if folder is None or headers is None:
        raise LayoutError(
            f"{name}: parameters of model type {model_type!r} cannot be counted from the config.",
            f"Download the model (`hf download {name}`) and give its folder: the headers of its "
            "safetensors files are counted then.",
            model_type=model_type,
            known_model_types=sorted(FAMILIES),
        )
    packed = any(tensor.dtype in PACKED_DTYPES for tensor in headers.values())
    if packed and config.get("quantization_config"):
        raise LayoutError(
            f"{folder}: its weights are packed into integers, so headers do not show their number.",
            "Give the model from which it was quantised.",
        )
    sizes = {
        name: tensor.size for name, tensor in headers.items() if _counts(name, tensor.dtype, config)
    }
    params, vocabulary = sum(sizes.values()), (config["vocab_size"], config["hidden_size"])
    mixture = _stored_experts(folder, sizes, config)
    return Counts(
        params=params,
        embedding_params=sum(sizes[name] for name in sizes if headers[name].shape == vocabulary),
        active_params=params - (mixture.idle_params if mixture else 0),
        mixture=mixture,
    )


def _counts(name: str, dtype: str, config: Mapping[str, Any]) -> bool:
    left_out = is_memory(name) or name.endswith("rotary_emb.inv_freq")
    second_head = config.get("tie_word_embeddings") is True and name.endswith("lm_head.weight")
    return dtype.startswith(("F", "BF")) and not left_out and not second_head


def _stored_experts(
    folder: Path, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> Mixture | None:
    """Count the routed experts among stored tensors; None if there are none."""
    routed = {name: size for name, size in sizes.items() if ".experts." in name}
    if not routed:
        return None
    experts, used = config.get("num_experts"), config.get("num_experts_per_tok")
    if not (isinstance(experts, int) and isinstance(used, int) and 0 < used <= experts):
        raise LayoutError(
            f"{folder} has routed experts, but its config does not state how many a token uses.",
            "State num_experts and num_experts_per_tok in config.json.",
            num_experts=experts,
            num_experts_per_tok=used,
        )
    return Mixture.from_keys(
        config,
        layers=len({name.partition(".experts.")[0] for name in routed}),
        expert_params=sum(routed.values()) // experts,
        router_params=0,
    )

"""Parameter counts of causal language models in closed form, from config and family.

Shapes: D hidden width, F width of a feed-forward part. A projection to X columns has D * X weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engram.backbone.families import Family


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameter counts of a model; tied weights count once.

    Attributes:
        params: All of them.
        embedding_params: Those of the vocabulary embedding, and of the head if it is not tied.
        active_params: Those that one token uses: all except routed experts it is not sent to.
    """

    params: int
    embedding_params: int
    active_params: int


def count(family: Family, config: Mapping[str, Any]) -> Counts:
    """Count the parameters of a causal language model.

    Args:
        family: The structure of the model.
        config: Config keys under their canonical names, with the family's defaults filled in.
    """
    hidden: int = config["hidden_size"]
    layers: int = config["num_hidden_layers"]
    attend = _latent_attention if family.latent_attention else _attention
    expert_layers, always_used, expert = _experts(family, config)
    body = (
        layers * (attend(family, config) + family.hidden_norms * family.norm_vectors * hidden)
        + (layers - expert_layers) * _mlp(family, config, config["intermediate_size"] or 4 * hidden)
        + expert_layers * always_used
        + family.norm_vectors * hidden
        + (config["max_position_embeddings"] * hidden if family.learned_positions else 0)
    )
    embedding = (1 if config["tie_word_embeddings"] else 2) * config["vocab_size"] * hidden
    return Counts(
        params=body + embedding + expert_layers * expert * config.get("num_experts", 0),
        embedding_params=embedding,
        active_params=body
        + embedding
        + expert_layers * expert * config.get("num_experts_per_tok", 0),
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


def _experts(family: Family, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Count layers with routed experts, the parameters all tokens use in one, and one expert's."""
    if family.expert_width is None or not config["num_experts"]:
        return 0, 0, 0
    step: int = config.get("decoder_sparse_step", 1)
    dense: list[int] = config.get("mlp_only_layers") or []
    candidates = range(config.get("first_k_dense_replace") or 0, config["num_hidden_layers"])
    layers = sum((layer + 1) % step == 0 and layer not in dense for layer in candidates)
    width: int = config[family.expert_width]
    router = config["num_experts"] * config["hidden_size"]
    shared = _mlp(family, config, width * config.get("n_shared_experts", 0))
    return layers, router + shared, _mlp(family, config, width)

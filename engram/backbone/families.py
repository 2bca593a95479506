"""The structure of decoder families: one table row each, with the defaults of its config keys.

Source: the configuration and modelling files of transformers 5.23.0, with which tests compare every
default and every count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

ATTACHED_PREFIX = "engram_"
# Other spellings of keys in raw config.json files, which transformers maps in config objects only.
ALIASES = {
    "hidden_size": ("n_embd", "d_model", "dim", "emb_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "max_position_embeddings": ("n_positions",),
    "intermediate_size": ("n_inner",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("moe_topk", "moe_k"),
    "hc_mult": ("hc_count",),
    "dtype": ("torch_dtype",),
}
# Config keys with the number of decoder layers, in families that do not use num_hidden_layers: a
# number, or a list with an entry for each layer.
LAYER_KEYS: dict[str, tuple[str, ...]] = {
    # num_hidden_layers counts the two attentions of each layer.
    "longcat_flash": ("num_layers",),
    "nemotron_h": ("layers_block_type", "hybrid_override_pattern"),
}


def canonical(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a raw config under their canonical names."""
    found = {key: spellings(key, raw) for key in ALIASES}
    return {**raw, **{key: raw[stated[0]] for key, stated in found.items() if stated}}


def spellings(key: str, raw: Mapping[str, Any]) -> list[str]:
    """Return the spellings of a canonical key that a raw config has; the first one is valid."""
    return [spelling for spelling in (key, *ALIASES[key]) if spelling in raw]


def stated_layers(read: Callable[[str], Any]) -> Any:
    """Return the number of decoder layers in a config, unchecked; None if it has none.

    Args:
        read: Returns the value of a config key, None if it is missing.
    """
    model_type = str(read("model_type")).removeprefix(ATTACHED_PREFIX)
    for key in LAYER_KEYS.get(model_type, ()):
        value = read(key)
        if value is not None:
            has_entries = isinstance(value, list) or key.endswith("pattern")
            return len(value) if has_entries else value
    return read("num_hidden_layers")


@dataclass(frozen=True, kw_only=True)
class Family:
    """The features of a decoder family that matter for counting parameters.

    Attributes:
        defaults: Value of each config key that a config.json may leave out.
        qkv_bias: Whether query, key and value projections have a bias, or the config key for
            it.
        output_bias: The same for the attention's output projection.
        mlp_bias: The same for the feed-forward projections.
        gated_mlp: Whether there are three feed-forward matrices (gate, up, down) instead of two.
        hidden_norms: Norms of width D in each layer.
        norm_vectors: Vectors of a hidden norm: 1 (weight) or 2 (weight and bias).
        qk_norm: Norms of queries and keys: none, as wide as one head, or as the whole projection.
        grouped_heads: Whether the config may have `num_key_value_heads` and `head_dim`; otherwise
            there are as many as query heads, D / heads wide.
        learned_positions: A learned embedding of `max_position_embeddings` rows.
        latent_attention: Whether it has DeepSeek's multi-head latent attention.
        expert_width: Config key of the width of a routed expert; None for a dense family.
        expert_count: Config key of the number of routed experts, as the family spells it.
    """

    defaults: Mapping[str, Any]
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    gated_mlp: bool = True
    hidden_norms: int = 2
    norm_vectors: int = 1
    qk_norm: Literal["none", "head", "projection"] = "none"
    grouped_heads: bool = True
    learned_positions: bool = False
    latent_attention: bool = False
    expert_width: str | None = None
    expert_count: str = "num_experts"


def _defaults(
    *, vocab: int, width: int | None, heads: int, kv_heads: int | None, **others: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **others,
    }


_MISTRAL = _defaults(
    vocab=32000,
    width=14336,
    heads=32,
    kv_heads=8,
    bos_token_id=1,
    eos_token_id=2,
    sliding_window=4096,
)
_QWEN = _defaults(
    vocab=151936,
    width=22016,
    heads=32,
    kv_heads=32,
    sliding_window=None,
    use_sliding_window=False,
)
_GEMMA = _defaults(
    vocab=256000,
    width=9216,
    heads=8,
    kv_heads=4,
    head_dim=256,
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
    sliding_window=4096,
    sliding_window_pattern=2,
)

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        defaults=_defaults(
            vocab=50257,
            width=None,
            heads=12,
            kv_heads=None,
            tie_word_embeddings=True,
            bos_token_id=50256,
            eos_token_id=50256,
            max_position_embeddings=1024,
        ),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        norm_vectors=2,
        grouped_heads=False,
        learned_positions=True,
    ),
    "llama": Family(
        defaults=_defaults(
            vocab=32000, width=11008, heads=32, kv_heads=None, bos_token_id=1, eos_token_id=2
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "mistral": Family(defaults=_MISTRAL),
    "mixtral": Family(
        defaults={**_MISTRAL, "sliding_window": None, "num_experts": 8, "num_experts_per_tok": 2},
        expert_width="intermediate_size",
        expert_count="num_local_experts",
    ),
    "qwen2": Family(defaults=_QWEN, qkv_bias=True),
    "qwen3": Family(
        defaults={**_QWEN, "head_dim": 128},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="head",
    ),
    "qwen3_moe": Family(
        defaults=_defaults(
            vocab=151936,
            width=6144,
            heads=32,
            kv_heads=4,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            decoder_sparse_step=1,
            mlp_only_layers=None,
            sliding_window=None,
            use_sliding_window=False,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="head",
        expert_width="moe_intermediate_size",
    ),
    "gemma2": Family(
        defaults=_GEMMA,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        hidden_norms=4,
    ),
    "gemma3_text": Family(
        defaults={**_GEMMA, "vocab_size": 262208, "sliding_window_pattern": 6},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        hidden_norms=4,
        qk_norm="head",
    ),
    "phi3": Family(
        defaults=_defaults(
            vocab=32064,
            width=8192,
            heads=32,
            kv_heads=None,
            pad_token_id=32000,
            bos_token_id=1,
            eos_token_id=32000,
            sliding_window=None,
        ),
    ),
    "olmo2": Family(
        defaults=_defaults(
            vocab=50304, width=11008, heads=32, kv_heads=None, pad_token_id=1, eos_token_id=50279
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="projection",
    ),
    "gpt_neox": Family(
        defaults=_defaults(
            vocab=50432,
            width=24576,
            heads=64,
            kv_heads=None,
            attention_bias=True,
            bos_token_id=0,
            eos_token_id=2,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias=True,
        gated_mlp=False,
        norm_vectors=2,
        grouped_heads=False,
    ),
    "smollm3": Family(
        defaults=_defaults(
            vocab=128256,
            width=11008,
            heads=16,
            kv_heads=4,
            tie_word_embeddings=True,
            pad_token_id=128004,
            bos_token_id=128000,
            eos_token_id=128001,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "deepseek_v3": Family(
        defaults=_defaults(
            vocab=129280,
            width=18432,
            heads=128,
            kv_heads=128,
            bos_token_id=0,
            eos_token_id=1,
            q_lora_rank=1536,
            kv_lora_rank=512,
            qk_rope_head_dim=64,
            qk_nope_head_dim=128,
            v_head_dim=128,
            num_experts=256,
            num_experts_per_tok=8,
            n_shared_experts=1,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            n_group=8,
            topk_group=4,
        ),
        latent_attention=True,
        expert_width="moe_intermediate_size",
        expert_count="n_routed_experts",
    ),
}

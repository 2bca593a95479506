"""Tiny shapes of further families, which go through every way of running in `engram verify`."""

from __future__ import annotations

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_HEAD = {**_SHAPE, "head_dim": 8}
_SLIDING = {**_SHAPE, "sliding_window": 12}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPTJ = {
    **{"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
# Layers of recurrent states between those of attention.
_LINEAR = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4},
    "layer_types": ["linear_attention", "full_attention"] * 2,
}

SIZES: dict[str, dict[str, object]] = {
    "codegen": _GPTJ,
    "cohere2": _SLIDING,
    "ernie4_5_moe": {
        **_SHAPE,
        **{"moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2},
        **{"moe_num_shared_experts": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 2},
    },
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "gemma4_text": {
        **_HEAD,
        **{"global_head_dim": 8, "sliding_window": 12, "hidden_size_per_layer_input": 0},
        **{"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 544},
    },
    "glm4": _HEAD,
    "gpt_oss": {**_HEAD, **_EXPERTS, "sliding_window": 12},
    "gptj": _GPTJ,
    "granite": _SHAPE,
    "hunyuan_v1_moe": {**_HEAD, "num_experts": 4, "moe_topk": 2},
    "jamba": {
        **_SHAPE,
        **{"num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2},
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
        **{"expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
        "use_mamba_kernels": False,
    },
    "lfm2": {
        **_SHAPE,
        **{"num_hidden_layers": 4, "block_ff_dim": 48},
        "layer_types": ["conv", "full_attention"] * 2,
    },
    "llama4_text": {
        **_HEAD,
        **{"intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1},
        "attention_chunk_size": 16,
    },
    "longcat_flash": {
        **{"hidden_size": 32, "ffn_hidden_size": 48, "num_layers": 3, "num_attention_heads": 4},
        **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8},
        **{"v_head_dim": 8, "head_dim": 4, "expert_ffn_hidden_size": 16, "n_routed_experts": 4},
        **{"zero_expert_num": 2, "moe_topk": 2, "max_position_embeddings": 128},
    },
    "minimax": {
        **_HEAD,
        **{**_EXPERTS, "block_size": 8},
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "modernbert-decoder": {**_SHAPE, "local_attention": 12},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128},
    "nemotron_h": {
        **{"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8},
        **{"ssm_state_size": 8, "n_groups": 2, "chunk_size": 8, "n_routed_experts": 4},
        **{"num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "moe_shared_expert_intermediate_size": 16,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    },
    "olmo3": _SLIDING,
    "qwen3_5_text": {**_HEAD, **_LINEAR},
    "qwen3_next": {
        **_HEAD,
        **{**_LINEAR, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "shared_expert_intermediate_size": 16,
    },
    "starcoder2": _SLIDING,
}

_REJECTED_TOKENS = {"assisted", "prompt lookup"}
_STATEFUL = {*_REJECTED_TOKENS, "crop and go on"}
# Ways of running that transformers' own model of a family cannot go, in one release or another.
NOT_WITH_THE_BASE: dict[str, set[str]] = {
    "jamba": {*_STATEFUL, "chunked = full"},
    "llama4_text": {"static cache", "static, padded"},
    "minimax": {*_STATEFUL, "beam search"},
    "mpt": _REJECTED_TOKENS,
    "nemotron_h": _STATEFUL,
    "qwen3_5_text": _STATEFUL,
    "qwen3_next": _STATEFUL,
}

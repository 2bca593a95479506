"""Tiny multimodal models with random weights, saved as Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from support.paths import BPE
from support.tiny import HIDDEN, VOCAB

_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_EXPERTS = {
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_MROPE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
}
_EYES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_EYES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 2,
    "out_hidden_size": HIDDEN,
    "num_position_embeddings": 16,
    "spatial_merge_size": 2,
    "deepstack_visual_indexes": [0],
}
# Token ids that the tokenizer has, as published models do.
_QWEN_IDS = {
    "image_token_id": 500,
    "video_token_id": 501,
    "vision_start_token_id": 502,
    "vision_end_token_id": 503,
}
_GEMMA = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"] * 2}
_QWEN2_EYES = {"embed_dim": 16, "mlp_ratio": 2}

PARTS = {
    "gemma3": {
        "text_config": {**_TEXT, **_GEMMA, "query_pre_attn_scalar": 8},
        "vision_config": _EYES,
        "mm_tokens_per_image": 4,
        "boi_token_index": 502,
        "eoi_token_index": 503,
        # One past the vocabulary, as in Gemma 3 itself.
        "image_token_index": VOCAB,
    },
    "gemma4": {
        "text_config": {
            **_TEXT,
            **_GEMMA,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            **_EYES,
            "head_dim": 8,
            "num_key_value_heads": 2,
            "pooling_kernel_size": 2,
            "position_embedding_size": 16,
        },
        "audio_config": None,
        "image_token_id": 500,
        "video_token_id": 501,
        "audio_token_id": 504,
        "boi_token_id": 502,
        "eoi_token_id": 503,
    },
    "internvl": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "vision_config": {**_EYES, "image_size": [8, 8], "patch_size": [2, 2]},
        "image_token_id": 500,
    },
    "llava": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_EYES, "num_hidden_layers": 2, "model_type": "clip_vision_model"},
        "image_token_index": 500,
    },
    "mistral3": {
        "text_config": {**_TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**_EYES, "head_dim": 8, "model_type": "pixtral"},
        "image_token_index": 500,
    },
    "qwen2_vl": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {**_QWEN_EYES, **_QWEN2_EYES, "hidden_size": HIDDEN},
        **_QWEN_IDS,
    },
    "qwen2_5_vl": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {**_QWEN_EYES, "window_size": 8, "fullatt_block_indexes": [1]},
        **_QWEN_IDS,
    },
    "qwen3_5": {
        "text_config": {**_TEXT, **_LINEAR},
        "vision_config": _QWEN_EYES,
        **_QWEN_IDS,
    },
    "qwen3_5_moe": {
        "text_config": {**_TEXT, **_LINEAR, **_EXPERTS},
        "vision_config": _QWEN_EYES,
        **_QWEN_IDS,
    },
    "qwen3_vl": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": _QWEN_EYES,
        **_QWEN_IDS,
    },
    "qwen3_vl_moe": {
        "text_config": {**_TEXT, **_MROPE, **_EXPERTS},
        "vision_config": _QWEN_EYES,
        **_QWEN_IDS,
    },
}
PROCESSOR_FILES = {
    "chat_template.jinja": "{{ messages }}",
    "preprocessor_config.json": json.dumps({"image_processor_type": "Gemma3ImageProcessor"}),
    "processor_config.json": json.dumps({"processor_class": "Gemma3Processor"}),
}


def multimodal_base(model_type: str, folder: Path) -> Path:
    """Save a random model of a type, with a tokenizer and processor files; return its folder."""
    config = AutoConfig.for_model(model_type, **PARTS[model_type])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    for parameter in model.parameters():  # biases and norms too: zeros and ones hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    for file in BPE.iterdir():
        shutil.copyfile(file, folder / file.name)
    for name, text in PROCESSOR_FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder

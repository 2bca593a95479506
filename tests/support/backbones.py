"""Configs of base models, and the counts that are compared."""

from __future__ import annotations

import json
from pathlib import Path

from engram.backbone import Backbone

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def write_config(folder: Path, config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def counted(backbone: Backbone) -> tuple[int, int, int]:
    return backbone.params, backbone.embedding_params, backbone.active_params

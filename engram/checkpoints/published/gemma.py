"""Gemma 3n and 4: per-layer embeddings, a plain memory per token without any hash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engram.checkpoints.published.family import (
    MOST_LAYERS,
    Expected,
    Family,
    Key,
    Memory,
    Settings,
    Slot,
    without_scale,
)
from engram.checkpoints.published.stored import Stored

_TABLE = "embed_tokens_per_layer.weight"
_SHARED = ("per_layer_model_projection.weight", "per_layer_projection_norm.weight")
_EACH = (
    "per_layer_input_gate.weight",
    "per_layer_projection.weight",
    "post_per_layer_input_norm.weight",
)
_WHOLE_NAME = re.compile(rf"^((?:.*\.)?)({'|'.join(map(re.escape, (_TABLE, *_SHARED)))})$")
_LAYER_NAME = re.compile(rf"^((?:.*\.)?)layers\.(\d+)\.({'|'.join(map(re.escape, _EACH))})$")


def _states(config: Mapping[str, Any]) -> bool:
    return bool(config.get("hidden_size_per_layer_input"))


def _find(name: str) -> Slot | None:
    name, is_scale = without_scale(name)
    match = _LAYER_NAME.match(name)
    if match:
        return Slot(int(match[2]), match[3], match[3].removesuffix(".weight"), "dense", is_scale)
    match = _WHOLE_NAME.match(name)
    if match is None:
        return None
    if match[2] == _TABLE:
        return Slot(None, _TABLE, "table", "table", is_scale)
    return Slot(None, match[2], match[2].removesuffix(".weight"), "dense", is_scale)


def _name_of(key: Key, shard: int, scale: bool, names: Mapping[str, Slot]) -> str:
    example, _ = without_scale(next(iter(names), "model.language_model." + _TABLE))
    match = _LAYER_NAME.match(example) or _WHOLE_NAME.match(example)
    layer = "" if key[0] is None else f"layers.{key[0]}."
    tensor = key[1] + "_scale" if scale else key[1]
    return f"{match[1] if match else ''}{layer}{tensor}"


def _describe(stored: Stored) -> Memory:
    settings = Settings(stored)
    hidden, layers = (
        settings.whole("hidden_size"),
        settings.whole("num_hidden_layers", high=MOST_LAYERS),
    )
    width = settings.whole("hidden_size_per_layer_input", default=256)
    rows = settings.whole("vocab_size_per_layer_input", default=262_144)
    settings.done()
    expected: dict[Key, Expected] = {
        (None, _TABLE): Expected(shape=(rows, layers * width)),
        (None, _SHARED[0]): Expected(shape=(layers * width, hidden)),
        (None, _SHARED[1]): Expected(shape=(width,)),
    }
    shapes = dict(zip(_EACH, ((width, hidden), (hidden, width), (hidden,)), strict=True))
    for layer in range(layers):
        for name, shape in shapes.items():
            expected[layer, name] = Expected(shape=shape)
    return Memory(
        config=None,
        reads=1,
        hash_rows={None: rows},
        expected=expected,
        notes=(f"no hash: a token reads its own row, {width} columns for each of {layers} layers",),
    )


FAMILY = Family(
    layout="gemma_ple",
    title="Gemma per-layer embeddings",
    source="transformers models/gemma3n and models/gemma4",
    states=_states,
    mark=re.compile(rf"(^|\.){re.escape(_TABLE)}$"),
    find=_find,
    name_of=_name_of,
    describe=_describe,
    checks={},
)

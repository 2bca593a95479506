"""Gemma 3n and 4: per-layer embeddings, a plain memory per token without any hash.

Names as in transformers' models/gemma3n and models/gemma4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engram.checkpoints.published.family import Expected, Family, Memory, demand_settings
from engram.checkpoints.published.stored import Stored
from engram.layouts.dialect import Key, Slot, without_scale
from engram.layouts.settings import MOST_LAYERS, Setting

_TABLE = "embed_tokens_per_layer.weight"
_SHARED = ("per_layer_model_projection.weight", "per_layer_projection_norm.weight")
_EACH = (
    "per_layer_input_gate.weight",
    "per_layer_projection.weight",
    "post_per_layer_input_norm.weight",
)
_SETTINGS = (
    Setting("hidden", ("hidden_size",)),
    Setting("layers", ("num_hidden_layers",), high=MOST_LAYERS),
    Setting("width", ("hidden_size_per_layer_input",), default=256),
    Setting("rows", ("vocab_size_per_layer_input",), default=262_144),
)
_WHOLE_NAME = re.compile(rf"^((?:.*\.)?)({'|'.join(map(re.escape, (_TABLE, *_SHARED)))})$")
_LAYER_NAME = re.compile(rf"^((?:.*\.)?)layers\.(\d+)\.({'|'.join(map(re.escape, _EACH))})$")


def _states(config: Mapping[str, Any]) -> bool:
    return bool(config.get("hidden_size_per_layer_input"))


def _find(name: str) -> Slot | None:
    name, is_scale = without_scale(name)
    match = _LAYER_NAME.match(name)
    if match:
        key = Key(int(match[2]), match[3])
        return Slot(key, key.name.removesuffix(".weight"), "dense", is_scale)
    match = _WHOLE_NAME.match(name)
    if match is None:
        return None
    key = Key(None, match[2])
    if key.name == _TABLE:
        return Slot(key, "table", "table", is_scale)
    return Slot(key, key.name.removesuffix(".weight"), "dense", is_scale)


def _name_of(key: Key, shard: int | None, scale: bool, names: Mapping[str, Slot]) -> str:
    example, _ = without_scale(next(iter(names), "model.language_model." + _TABLE))
    match = _LAYER_NAME.match(example) or _WHOLE_NAME.match(example)
    layer = "" if key.layer_id is None else f"layers.{key.layer_id}."
    tensor = key.name + "_scale" if scale else key.name
    return f"{match[1] if match else ''}{layer}{tensor}"


def _describe(stored: Stored) -> Memory:
    stated = demand_settings(_SETTINGS, stored)
    hidden, layers, width, rows = (stated[setting.ours] for setting in _SETTINGS)
    expected: dict[Key, Expected] = {
        Key(None, _TABLE): Expected(shape=(rows, layers * width)),
        Key(None, _SHARED[0]): Expected(shape=(layers * width, hidden)),
        Key(None, _SHARED[1]): Expected(shape=(width,)),
    }
    shapes = dict(zip(_EACH, ((width, hidden), (hidden, width), (hidden,)), strict=True))
    for layer in range(layers):
        for name, shape in shapes.items():
            expected[Key(layer, name)] = Expected(shape=shape)
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
    states=_states,
    marks=re.compile(rf"(^|\.){re.escape(_TABLE)}$").search,
    find=_find,
    name_of=_name_of,
    describe=_describe,
)

"""The dtype of a base's values, which an attached memory takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.backbone.quantisation import stated_quantisation
from engram.storage.dtypes import FLOATS
from engram.storage.safetensors_headers import TensorInfo


def count_values(tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Count the values of tensors by dtype tag."""
    values: dict[str, int] = {}
    for info in tensors.values():
        values[info.dtype] = values.get(info.dtype, 0) + info.size
    return values


def float_dtype(config: Mapping[str, Any], values: Mapping[str, int] | None) -> str | None:
    """Return the dtype of most of a base's values, or the one that a quantised base computes in.

    Args:
        config: Its config.json.
        values: Number of values by dtype tag, from the headers of its weights; None without
            weights.

    Returns:
        Name of a float dtype; None if neither config nor weights show it.
    """
    stated = _stated(config)
    if stated is not None and (not values or stated_quantisation(config) is not None):
        return stated
    floats = {tag: size for tag, size in (values or {}).items() if tag in FLOATS}
    return FLOATS[max(floats, key=lambda tag: floats[tag])] if floats else None


def unstated_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the dtype that transformers derives for a model whose config does not state one.

    That is the dtype of the first float tensor in the first file, both in alphabetical order.

    Args:
        config: Its config.json.
        tensors: Its tensors by name.

    Returns:
        Name of a float dtype; None if the config states one, or there is no float tensor.
    """
    if config.get("dtype") or config.get("torch_dtype"):
        return None
    floats = [(info.path.name, name) for name, info in tensors.items() if info.dtype in FLOATS]
    return FLOATS[tensors[min(floats)[1]].dtype] if floats else None


def _stated(config: Mapping[str, Any]) -> str | None:
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        name = str(part.get("dtype") or part.get("torch_dtype")).removeprefix("torch.")
        if name in FLOATS.values():
            return name
    return None

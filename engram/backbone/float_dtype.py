"""The dtype of a base's values, which an attached memory takes over."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from engram.backbone.quantisation import stated_quantisation
from engram.storage.dtypes import FLOATS
from engram.storage.safetensors_headers import TensorInfo


def float_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo] | None) -> str | None:
    """Return the dtype of most of a base's values, or the one that a quantised base computes in.

    Args:
        config: Its config.json.
        tensors: Its tensors by name, from their headers; None without weights.

    Returns:
        Name of a float dtype; None if neither config nor weights show it.
    """
    stated = _stated(config)
    if stated is not None and (not tensors or stated_quantisation(config) is not None):
        return stated
    values: Counter[str] = Counter()
    for info in (tensors or {}).values():
        if info.dtype in FLOATS:
            values[info.dtype] += info.size
    return FLOATS[values.most_common(1)[0][0]] if values else None


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

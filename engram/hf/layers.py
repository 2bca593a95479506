"""Finds the decoder of a causal language model and its layers, and compares them with a memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from engram.backbone.families import stated_layers
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError


def find_layers(model: Any) -> tuple[Any, Any, str]:
    """Find the decoder of a causal language model and its list of layers.

    The decoder is the module that takes token ids and has one list of layers, as long as the depth
    of the text model in its config.

    Args:
        model: A transformers model, on any device, the meta device included.

    Returns:
        The decoder, its layers, and the dotted name of the list in the model.

    Raises:
        LayoutError: There is no such module.
    """
    depth = _depth(model.config.get_text_config())
    for path, decoder in _decoders(model):
        lists = {
            name: child
            for name, child in decoder.named_children()
            if isinstance(child, nn.ModuleList) and len(child) == depth
        }
        if len(lists) == 1:
            name, layers = next(iter(lists.items()))
            return decoder, layers, f"{path}.{name}" if path else name
        if lists:
            raise _not_found(model, f"{type(decoder).__name__} has several: {', '.join(lists)}")
    raise _not_found(model, "no module that takes token ids has one")


def _decoders(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield candidates for the decoder: `get_decoder` first, then modules that take token ids."""
    named = [(path, it) for path, it in model.named_modules() if _takes_ids(it)]
    own = model.get_decoder() if hasattr(model, "get_decoder") else model
    yield from sorted(named, key=lambda pair: pair[1] is not own)


def _takes_ids(module: Any) -> bool:
    return "input_ids" in inspect.signature(module.forward).parameters


def _depth(text_config: Any) -> int | None:
    model_type = str(text_config.model_type).removeprefix("engram_")
    depth: int | None = stated_layers(model_type, partial(_value, text_config))
    return depth


def _value(config: Any, key: str) -> Any:
    return getattr(config, key, None)


def _not_found(model: Any, reason: str) -> LayoutError:
    depth = _depth(model.config.get_text_config())
    return LayoutError(
        f"The layers of {type(model).__name__} cannot be found: a memory needs one list of {depth} "
        f"layers, and {reason}.",
        "Choose a decoder that keeps its layers in one list, such as Llama or Qwen.",
        model=type(model).__name__,
        num_layers=depth,
    )


def check_fits(config: EngramConfig, layer_ids: list[int], depth: int, backbone: Any) -> None:
    """Compare a memory with its backbone.

    Args:
        config: The memory.
        layer_ids: Layers that read it.
        depth: Layers of the decoder.
        backbone: The transformers config of the text model.

    Raises:
        LayoutError: A layer does not exist, or hidden sizes or streams differ.
    """
    width = backbone.hidden_size
    beyond = [layer_id for layer_id in layer_ids if layer_id >= depth]
    if beyond:
        raise LayoutError(
            f"layer_ids must be in 0..{depth - 1}, the layers of the model, got {beyond}.",
            "Choose other layer_ids in the config.",
            layer_ids=beyond,
            num_layers=depth,
        )
    if config.hidden_size != width:
        raise LayoutError(
            f"hidden_size must be {width}, that of the model, got {config.hidden_size}.",
            f"Set hidden_size: {width} in the config.",
            hidden_size=config.hidden_size,
            model_hidden_size=width,
        )
    streams = getattr(backbone, "hc_mult", None) or getattr(backbone, "hc_count", None) or 1
    if config.hc_mult != streams:
        raise LayoutError(
            f"hc_mult must be {streams}, the model's residual streams, got {config.hc_mult}.",
            f"Set hc_mult: {streams} in the config.",
            hc_mult=config.hc_mult,
            model_hc_mult=streams,
        )

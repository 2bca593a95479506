"""Puts memories into a transformers model: finds its layers and adds modules to them.

The decoder and its layers keep their weights, hooks and names; only their classes are replaced by
subclasses that call the memory (`engram.hf.calls`).
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import check_config
from engram.backbone.families import stated_layers
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError
from engram.hf.admission import check_cache
from engram.hf.calls import MemoryDecoder, MemoryLayer, PlainLayer
from engram.hf.classes import mixed
from engram.hf.ids import MemoryIds
from engram.hf.multimodal import placeholder_ids
from engram.hf.tables import refuse_loaded_tables
from engram.nn import DiskEmbedding, EngramModule


def wire(
    model: Any,
    config: EngramConfig,
    addresses: Addresses,
    tables: Mapping[int, DiskEmbedding] | None = None,
) -> None:
    """Add memories to a model, in place.

    Adds modules ``<layer>.engram``, with the token map as a buffer of the first one.

    Args:
        model: A transformers causal language model.
        config: The memory.
        addresses: Its constants; a missing token map is loaded with the weights.
        tables: Tables on disk by layer id; None to make them in memory.

    Raises:
        LayoutError: The layers cannot be found, do not exist in the model, or have another width.
        MismatchError: A table is missing or has another shape, or the constants do not match the
            config.
    """
    check_config(addresses, config, model.config.name_or_path or type(model).__name__)
    decoder, layers, path = find_place(model, config, addresses.layer_ids)
    dtype, distributions = model.dtype, addresses.vocab_distributions
    for index, layer in enumerate(layers):
        mixin = MemoryLayer if index in distributions else PlainLayer
        layer.__class__ = mixed(mixin, layer.__class__)
        if index in distributions:
            layer.engram_layer_id = index
            if tables is not None and index not in tables:
                raise MismatchError(
                    f"The files have no table for layer {index}, only for {sorted(tables)}.",
                    "Download or copy the whole checkpoint again.",
                    layer_id=index,
                    tables=sorted(tables),
                )
            table = None if tables is None else tables[index]
            module = EngramModule(config, distributions[index], init="identity", table=table)
            layer.engram = module.to(dtype)
            if table is not None:
                layer.register_load_state_dict_pre_hook(refuse_loaded_tables)
    if addresses.map_sha256 is not None:
        token_map = torch.zeros(addresses.raw_vocab_size, dtype=torch.int32)
        if addresses.token_map is not None:
            token_map = torch.from_numpy(addresses.token_map)
        layers[addresses.layer_ids[0]].engram.register_buffer("token_map", token_map)
    decoder.__class__ = mixed(MemoryDecoder, decoder.__class__)
    decoder.engram_ids = MemoryIds(addresses, placeholder_ids(model.config))
    decoder.engram_layers_name = path.rpartition(".")[2]


def find_place(model: Any, config: EngramConfig, layer_ids: list[int]) -> tuple[Any, Any, str]:
    """Find the decoder and the layers that a memory goes to; see `find_layers`.

    Raises:
        LayoutError: There are none, they carry no memory, or not this one.
    """
    decoder, layers, path = find_layers(model)
    check_cache(decoder)
    check_fits(config, layer_ids, len(layers), model.config.get_text_config())
    return decoder, layers, path


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
    named = [
        (path, module)
        for path, module in model.named_modules()
        if "input_ids" in inspect.signature(module.forward).parameters
    ]
    own = model.get_decoder() if hasattr(model, "get_decoder") else model
    for path, decoder in sorted(named, key=lambda pair: pair[1] is not own):
        lists = {
            name: child
            for name, child in decoder.named_children()
            if isinstance(child, nn.ModuleList) and len(child) == depth
        }
        if len(lists) == 1:
            name, layers = next(iter(lists.items()))
            return decoder, layers, f"{path}.{name}" if path else name
        if lists:
            raise _not_found(
                model, depth, f"{type(decoder).__name__} has several: {', '.join(lists)}"
            )
    raise _not_found(model, depth, "no module that takes token ids has one")


def _depth(text_config: Any) -> int | None:
    return cast(int | None, stated_layers(lambda key: getattr(text_config, key, None)))


def _not_found(model: Any, depth: int | None, reason: str) -> LayoutError:
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

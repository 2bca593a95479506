"""Puts memories into a transformers model: finds its layers and gives them modules.

The decoder and its layers keep their weights, hooks and names; only their classes are exchanged for
subclasses that know of the memory (`engram.hf.calls`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engram.addressing.addresses import Addresses
from engram.config import EngramConfig
from engram.errors import LayoutError, MismatchError
from engram.hf.calls import MemoryDecoder, MemoryLayer, PlainLayer
from engram.hf.classes import mixed
from engram.hf.compat import CACHE_NAMES, cache_name
from engram.hf.ids import MemoryIds
from engram.nn import DiskEmbedding, EngramModule


def find_layers(model: Any) -> tuple[Any, Any, str]:
    """Find the decoder of a causal language model and its list of layers.

    Args:
        model: A transformers model, on any device, the meta device included.

    Returns:
        The decoder, its layers, and the dotted name of the list in the model.

    Raises:
        LayoutError: There is no one list as long as the model is deep.
    """
    config = model.config.get_text_config()
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    depth = getattr(config, "num_hidden_layers", None)
    found = {
        name: child
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    }
    if len(found) != 1:
        what = (
            f"{len(found)} lists of {depth} layers ({', '.join(found)})"
            if found
            else "no such list"
        )
        raise LayoutError(
            f"Where the layers of {type(model).__name__} are cannot be told: its decoder "
            f"{type(decoder).__name__} has {what}.",
            "Attaching needs a decoder with one list of num_hidden_layers layers.",
            model=type(model).__name__,
        )
    name, layers = next(iter(found.items()))
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    return decoder, layers, f"{prefix}.{name}" if prefix else name


def wire(
    model: Any,
    config: EngramConfig,
    addresses: Addresses,
    tables: Mapping[int, DiskEmbedding] | None = None,
) -> None:
    """Give a model memories, in place.

    Adds ``<layer>.engram`` modules, with the token map as a buffer of the first one.

    Args:
        model: A transformers causal language model.
        config: The memory.
        addresses: Its constants; the token map may be missing, it is then loaded with the weights.
        tables: Tables on disk by layer id; None to make them in memory.

    Raises:
        LayoutError: The layers cannot be found, lie past the model's depth, or have another width.
        MismatchError: A table is missing or has another shape.
    """
    decoder, layers, path = find_layers(model)
    if cache_name(decoder.forward) is None:
        raise LayoutError(
            f"{type(decoder).__name__} takes no cache of transformers' (its forward has no "
            f"{' or '.join(CACHE_NAMES)}), where the memory's past has to live.",
            "Choose a model that caches keys and values.",
            model=type(model).__name__,
        )
    check_fits(config, addresses.layer_ids, model.config.get_text_config())
    dtype, distributions = model.dtype, addresses.vocab_distributions
    for index, layer in enumerate(layers):
        mixin = MemoryLayer if index in distributions else PlainLayer
        layer.__class__ = mixed(mixin, layer.__class__)
        if index in distributions:
            layer.engram_layer_id = index
            table = None if tables is None else _table_of(index, tables)
            module = EngramModule(config, distributions[index], init="identity", table=table)
            layer.engram = module.to(dtype)
    if addresses.map_sha256 is not None:
        token_map = torch.zeros(addresses.raw_vocab_size, dtype=torch.int32)
        if addresses.token_map is not None:
            token_map = torch.from_numpy(addresses.token_map)
        first = layers[addresses.layer_ids[0]].engram
        first.register_buffer("token_map", token_map, persistent=True)
    decoder.__class__ = mixed(MemoryDecoder, decoder.__class__)
    decoder.engram_ids = MemoryIds(addresses)
    decoder.engram_layers_name = path.rpartition(".")[2]


def _table_of(layer_id: int, tables: Mapping[int, DiskEmbedding]) -> DiskEmbedding:
    if layer_id not in tables:
        raise MismatchError(
            f"The files hold no table for layer {layer_id}; they have those of {sorted(tables)}.",
            "Download or copy the whole checkpoint again.",
            layer_id=layer_id,
            tables=sorted(tables),
        )
    return tables[layer_id]


def check_fits(config: EngramConfig, layer_ids: list[int], backbone: Any) -> None:
    """Compare a memory with the backbone it is for.

    Args:
        config: The memory.
        layer_ids: Layers that are to read it.
        backbone: The transformers config of the text model.

    Raises:
        LayoutError: A layer lies past the depth, or hidden sizes or streams differ.
    """
    depth, width = backbone.num_hidden_layers, backbone.hidden_size
    beyond = [layer_id for layer_id in layer_ids if layer_id >= depth]
    if beyond:
        raise LayoutError(
            f"Layers {beyond} lie past the model's {depth} layers (0..{depth - 1}).",
            "Choose other layer_ids in the config.",
            layer_ids=beyond,
            num_layers=depth,
        )
    if config.hidden_size != width:
        raise LayoutError(
            f"The memory is {config.hidden_size} wide, the model {width}.",
            f"Set hidden_size: {width} in the config.",
            hidden_size=config.hidden_size,
            model_hidden_size=width,
        )
    streams = getattr(backbone, "hc_mult", None) or getattr(backbone, "hc_count", None) or 1
    if config.hc_mult != streams:
        raise LayoutError(
            f"The memory is for {config.hc_mult} residual streams, the model has {streams}.",
            f"Set hc_mult: {streams} in the config.",
            hc_mult=config.hc_mult,
            model_hc_mult=streams,
        )

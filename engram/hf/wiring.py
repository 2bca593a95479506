"""Puts memories into a transformers model: finds its layers and adds modules to them.

The decoder and its layers keep their weights, hooks and names; only their classes are replaced by
subclasses that call the memory (`engram.hf.calls`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import check_config
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError
from engram.hf.admission import check_cache
from engram.hf.calls import MemoryDecoder, MemoryLayer, PlainLayer
from engram.hf.classes import mixed
from engram.hf.ids import MemoryIds
from engram.hf.layers import check_fits, find_layers
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
    decoder, layers, path = find_layers(model)
    check_cache(decoder)
    check_fits(config, addresses.layer_ids, len(layers), model.config.get_text_config())
    dtype, distributions = model.dtype, addresses.vocab_distributions
    for index, layer in enumerate(layers):
        mixin = MemoryLayer if index in distributions else PlainLayer
        layer.__class__ = mixed(mixin, layer.__class__)
        if index in distributions:
            layer.engram_layer_id = index
            table = None if tables is None else _table_of(index, tables)
            module = EngramModule(config, distributions[index], init="identity", table=table)
            layer.engram = module.to(dtype)
            if table is not None:
                layer.register_load_state_dict_pre_hook(refuse_loaded_tables)
    if addresses.map_sha256 is not None:
        token_map = torch.zeros(addresses.raw_vocab_size, dtype=torch.int32)
        if addresses.token_map is not None:
            token_map = torch.from_numpy(addresses.token_map)
        first = layers[addresses.layer_ids[0]].engram
        first.register_buffer("token_map", token_map, persistent=True)
    decoder.__class__ = mixed(MemoryDecoder, decoder.__class__)
    decoder.engram_ids = MemoryIds(addresses, placeholder_ids(model.config))
    decoder.engram_layers_name = path.rpartition(".")[2]


def _table_of(layer_id: int, tables: Mapping[int, DiskEmbedding]) -> DiskEmbedding:
    if layer_id not in tables:
        raise MismatchError(
            f"The files have no table for layer {layer_id}, only for {sorted(tables)}.",
            "Download or copy the whole checkpoint again.",
            layer_id=layer_id,
            tables=sorted(tables),
        )
    return tables[layer_id]

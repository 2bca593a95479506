"""First values of every tensor of a memory: drawn by the module itself, and chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.initial_values import normal_table, quantised_table
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import table_dtype
from engram.sizing.weights import dense_dtype
from engram.storage.safetensors_writer import QUANTISED_TAGS, Chunks, TensorStream
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

_TABLE_STD = 1.0  # as the reference demo's table starts


def first_values(
    made: AttachPlan,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    init: Literal["identity", "paper"],
) -> list[TensorStream]:
    """Give every tensor of a memory its first values, chunk by chunk.

    Args:
        made: The memory.
        tensors: Dtype tag and shape of each, by name.
        init: See `EngramModule.reset_parameters`.
    """
    streams, config, addresses = [], made.config, made.addresses
    for layer in addresses.layers:
        prefix = tensor_name(made.layers_path, layer.layer_id, "")
        values = _dense_values(config, layer.layer_id, init)
        values[OFFSETS] = np.array(layer.offsets, dtype="<i8")
        if prefix + TOKEN_MAP in tensors and addresses.token_map is not None:
            values[TOKEN_MAP] = addresses.token_map.astype("<i4")
        tables = _table_values(config, layer.layer_id, layer.stored_rows)
        for name, (tag, shape) in tensors.items():
            if not name.startswith(prefix):
                continue
            part = name.removeprefix(prefix)
            chunks = tables.get(part) or [partial(np.ascontiguousarray, values[part])]
            streams.append(TensorStream(name, tag, shape, chunks))
    return streams


def _table_values(config: EngramConfig, layer_id: int, rows: int) -> dict[str, Chunks]:
    """Describe the table of one layer, and its scales where it has some."""
    dtype, key = table_dtype(config).name, f"{config.seed}/{layer_id}"
    if dtype in QUANTISED_TAGS:
        codes, scales = quantised_table(rows, config.row_width, dtype, std=_TABLE_STD, key=key)
        return {TABLE: codes, SCALE: scales}
    return {TABLE: normal_table(rows, config.row_width, dtype, std=_TABLE_STD, key=key)}


def _dense_values(
    config: EngramConfig, layer_id: int, init: Literal["identity", "paper"]
) -> dict[str, Any]:
    """Let the module itself draw everything but its table."""
    import torch

    from engram.nn import EngramModule

    dtype = dense_dtype(table_dtype(config).name)
    smallest = [[2] * config.n_head_per_ngram for _ in config.orders]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1_000_003 + layer_id)
        module = EngramModule(replace(config, table_dtype=dtype), smallest, init=init)
    module = module.to(getattr(torch, dtype))
    return {
        name: value.detach().view(_bits(value)).numpy()
        if value.is_floating_point()
        else value.numpy()
        for name, value in module.state_dict().items()
        if name not in (TABLE, OFFSETS)
    }


def _bits(value: Any) -> Any:
    """Return the integer dtype of the same size: numpy has no bfloat16."""
    import torch

    return {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]

"""Writes memories under published names: tensors, and the config that their readers look for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import LayerAddresses
from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError
from engram.layouts import get_layout
from engram.layouts.settings import write_settings
from engram.layouts.tensors import CONSTANTS, shape_of
from engram.storage.dtypes import QUANTISED

# A published name, that of its scales, and its values: stored ones, or constants.
Named = tuple[str, str, "StoredTensor | NDArray[np.int64]"]


def check_expressible(config: EngramConfig, to: str, dtype: str) -> None:
    """Refuse what a published format has no place for.

    Args:
        config: The memory.
        to: Layout whose names are to be used.
        dtype: dtype of the tables.

    Raises:
        LayoutError: With the reason.
    """
    layout = get_layout(to)
    if config.layout != to:
        raise LayoutError(
            f"A memory of layout {config.layout} cannot be written as {to}: {layout.apart}.",
            f"Its own names are: --to {config.layout}",
            layout=config.layout,
            to=to,
        )
    if config.ends_after_eos and not layout.ends_after_eos:
        raise LayoutError(
            f"The memory ends documents with token {config.eos_id}, which the published format of "
            f"{to} does not: whoever reads it would look rows up across documents.",
            "Write it as --to attached.",
            to=to,
            eos_id=config.eos_id,
        )
    if dtype in QUANTISED and not (dtype == "fp8" and layout.table_block):
        raise LayoutError(
            f"The published format of {to} has no tensors for {dtype} tables.",
            "Use --dtype bfloat16 or float32, or --to attached.",
            to=to,
            dtype=dtype,
        )


def published_tensors(
    config: EngramConfig, layer: LayerAddresses, tensors: Mapping[str, StoredTensor]
) -> Iterator[Named]:
    """Name one layer's tensors as their layout was published.

    Args:
        config: The memory.
        layer: The layer's constants.
        tensors: Its parameters under our names.

    Yields:
        Names, names of scales, and values.
    """
    layout = config.rules
    names = layout.released.names
    for key in layout.released.keys(layer.layer_id, config.hc_mult):
        if key.name in CONSTANTS:
            constant = np.array(layer.constants[key.name], dtype="<i8")
            yield layout.released.write(key), "", constant
            continue
        tensor, pieces = tensors[key.name], 1
        shape = tensor.shape
        if key.number is not None:
            shape = shape_of(layout.all_tensors[key.name].stream_shape, config.sizes)
            tensor = tensor.part(key.number * tensor.rows // config.hc_mult, shape)
        elif "{shard}" in names[key.name]:
            pieces = config.row_multiple
            shape = (tensor.rows // pieces, *shape[1:])
        for i in range(pieces):
            part = tensor.part(i * shape[0], shape) if pieces > 1 else tensor
            name, scale = (layout.released.write(key, i, scale=scale) for scale in (False, True))
            yield name, scale, part


def published_config(
    config: EngramConfig, rows: list[int], vocab_size: int, pad_id: int
) -> dict[str, Any]:
    """Write the settings of a memory as the layout's own config.json states them.

    Args:
        config: The memory.
        rows: Rows of each layer's table, in the order of its layers.
        vocab_size: Size of the vocabulary that is hashed.
        pad_id: Token id of the pad; of no use to layouts that hash raw ids.

    Returns:
        The settings; none for a layout that has no file for them.
    """
    released = config.rules.released
    values = {
        **vars(config),
        "rows_per_head": config.rows_per_head[0],
        "row_width": config.row_width,
        "memory_width": config.memory_width,
        "shards": config.row_multiple,
        "stored_rows": rows,
        "compressed_vocab_size": vocab_size,
        "pad_id": pad_id,
    }
    named = {} if released.model_type is None else {"model_type": released.model_type}
    return {**named, **write_settings(released.settings, values)}

"""Plans of conversions to published names: tensors, and the config that their readers look for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.addressing.tokenizer_files import TokenizerFile
from engram.checkpoints.attach.attach import MAX_SHARD_BYTES
from engram.checkpoints.convert.conversion import Conversion
from engram.checkpoints.convert.recoded import LossRecord, recode
from engram.checkpoints.read.attached_files import CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import is_path
from engram.errors import LayoutError
from engram.layouts import get_layout
from engram.layouts.settings import write_settings
from engram.layouts.tensors import CONSTANTS, shape_of
from engram.storage.dtypes import QUANTISED
from engram.storage.safetensors_writer import TensorStream, plan_shards
from engram.tensor_names import TOKEN_MAP


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


def to_published(
    memory: Checkpoint, output: Path, dtype: str, tokenizer: TokenizerFile | None
) -> Conversion:
    """Describe a memory alone, under the names of its layout."""
    stated = memory.config.tokenizer
    own = None if stated is None or is_path(stated) else stated  # no tokenizer lies beside it
    config = replace(memory.stored_config, table_dtype=dtype, tokenizer=own)
    addresses, record = memory.addresses_with(tokenizer), LossRecord()
    streams = [
        stream
        for layer in addresses.layers
        for stream in _streams(config, layer, memory.layers[layer.layer_id], record)
    ]
    texts = {
        MEMORY_FILE: {"schema": 1, "config": config.to_dict(), "addresses": addresses.to_dict()}
    }
    released = get_layout(config.layout).released
    if released.model_type is not None:
        values = {
            **vars(config),
            "rows_per_head": config.rows_per_head[0],
            "row_width": config.row_width,
            "memory_width": config.memory_width,
            "shards": config.row_multiple,
            "stored_rows": [layer.stored_rows for layer in addresses.layers],
            "compressed_vocab_size": addresses.vocab_size,
            "pad_id": _pad_id(memory, config, addresses),
        }
        settings = write_settings(released.settings, values)
        texts[CONFIG_FILE] = {"model_type": released.model_type, **settings}
    return Conversion(
        source=memory,
        to=config.layout,
        config=config,
        addresses=addresses,
        output=output,
        shards=plan_shards(streams, MAX_SHARD_BYTES),
        texts={name: json.dumps(values, indent=2) + "\n" for name, values in texts.items()},
        record=record,
    )


def _streams(
    config: EngramConfig,
    layer: LayerAddresses,
    tensors: Mapping[str, StoredTensor],
    record: LossRecord,
) -> Iterator[TensorStream]:
    """Describe one layer's tensors as their layout was published; see `recode`."""
    layout = get_layout(config.layout)
    for key in layout.released.keys(layer.layer_id, config.hc_mult):
        if key.name in CONSTANTS:
            values = np.array(layer.constants[key.name], dtype="<i8")
            name = layout.released.write(key)
            yield TensorStream(name, "I64", values.shape, [values.copy])
            continue
        tensor, pieces = tensors[key.name], 1
        if key.number is not None:
            shape = shape_of(layout.letters(key), config.sizes)
            tensor = tensor.part(key.number * tensor.rows // config.hc_mult, shape)
        elif "{shard}" in layout.released.names[key.name]:
            pieces = config.row_multiple
        rows = tensor.rows // pieces
        for i in range(pieces):
            part = tensor.part(i * rows, (rows, *tensor.shape[1:]))
            name, scale = (layout.released.write(key, i, scale=scale) for scale in (False, True))
            yield from recode(part, name, config, record, layer.layer_id, scale)


def _pad_id(memory: Checkpoint, config: EngramConfig, addresses: Addresses) -> int:
    """Return a token id that stands for the fill: the config may state a token, or nothing."""
    if isinstance(config.pad_id, int) or addresses.map_sha256 is None:
        return config.pad_id if isinstance(config.pad_id, int) else 0
    token_map = memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4")
    return int(np.flatnonzero(token_map == addresses.fill)[0])

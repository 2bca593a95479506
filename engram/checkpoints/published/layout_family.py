"""Checkpoints of our layouts: their tables say what config and headers should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engram.addressing.primes import head_primes, stored_rows
from engram.backbone.claims import text_part
from engram.checkpoints.published.family import (
    Expected,
    Released,
    demand_settings,
)
from engram.config.engram_config import EngramConfig
from engram.errors import CorruptFileError, Problem
from engram.layouts import Layout
from engram.layouts.dialect import Dialect, Key
from engram.layouts.settings import config_keys
from engram.layouts.tensors import shape_of
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored
from engram.tensor_names import TABLE

Block = tuple[int, int]


def describe(layout: Layout, stored: Stored) -> Released:
    """Tell what a checkpoint of a layout should hold."""
    if not layout.released.settings:
        return _describe_alone(layout, stored)
    dialect = layout.spoken(stored.tensors)
    blocks, problems = _blocks(layout, dialect, stored)
    stated = demand_settings(dialect.settings, stored, problems)
    if layout.prime_order == "sorted":
        stated["layer_ids"].sort()
    folder = None if stored.folder is None else str(stored.folder)
    config = EngramConfig(layout=layout.name, tokenizer=folder, **config_keys(stated))
    primes = head_primes(config)
    layers = {
        layer_id: {**config.sizes, "R": stored_rows(heads, config.row_multiple)}
        for layer_id, heads in primes.items()
    }
    orders = f"orders 2 to {config.max_ngram_size}, {config.n_head_per_ngram} heads each"
    rounded = f"rows rounded up to a multiple of {config.row_multiple}"
    return Released(
        family=layout,
        stored=stored,
        config=config,
        reads=config.n_columns,
        hash_rows={layer_id: sum(map(sum, heads)) for layer_id, heads in primes.items()},
        expected=dict(_expected(layout, layers, blocks, stated.get("shards", 1))),
        note=rounded if config.row_multiple > 1 else orders,
    )


def _describe_alone(layout: Layout, stored: Stored) -> Released:
    """Describe a state dict without a config: its tensors have to fit each other."""
    tensors: dict[int | None, dict[Key, TensorInfo]] = {}
    for name, info in stored.tensors.items():
        slot = layout.read(name)
        if slot is not None:
            tensors.setdefault(slot.layer_id, {})[slot.key] = info
    layers = {it: _sizes_in(layout, stored, it, infos) for it, infos in tensors.items()}
    return Released(
        family=layout,
        stored=stored,
        reads=max((values["C"] for values in layers.values()), default=0),
        hash_rows={layer_id: values["R"] for layer_id, values in layers.items()},
        expected=dict(_expected(layout, layers, {}, 1)),
        note="a state dict without a config: sizes as the tensors have them",
    )


def _expected(
    layout: Layout,
    layers: Mapping[int, Mapping[str, int]] | Mapping[int | None, Mapping[str, int]],
    blocks: Mapping[str, Block],
    shards: int,
) -> Iterator[tuple[Key, Expected]]:
    """The tensors of layers, given the values of the shapes' letters in each."""
    for layer_id, values in layers.items():
        for key in layout.released.keys(layer_id, values["M"]):
            pieces = shards if "{shard}" in layout.released.names[key.name] else 1
            shape = shape_of(layout.letters(key), values)
            yield key, Expected(shape=shape, block=blocks.get(key.name), shards=pieces)


def _blocks(
    layout: Layout, dialect: Dialect, stored: Stored
) -> tuple[dict[str, Block], list[Problem]]:
    """Rows and columns that share a scale, as the config states them or the layout has them."""
    blocks = {tensor.name: tensor.block for tensor in layout.all_tensors.values() if tensor.block}
    stated = text_part(stored.config).get("quantization_config") or {}
    if not isinstance(stated, dict):
        return blocks, [Problem("quantization_config", f"{stated!r} is not an object")]
    problems = []
    for name, key in (dialect.block_keys or {}).items():
        rows, columns = blocks[name]
        value: Any = stated.get(key, columns if rows == 1 else [rows, columns])
        sizes: Any = [1, value] if rows == 1 else value
        is_pair = isinstance(sizes, list) and len(sizes) == 2
        if not (is_pair and all(type(size) is int and size > 0 for size in sizes)):
            problems.append(Problem("quantization_config", f"{key} {value!r} is not a size"))
        else:
            blocks[name] = (sizes[0], sizes[1])
    return blocks, problems


def _sizes_in(
    layout: Layout, stored: Stored, layer_id: int | None, infos: Mapping[Key, TensorInfo]
) -> dict[str, int]:
    """Read the values of the shapes' letters off the tensors that have them as a dimension."""
    table, offsets = infos.get(Key(layer_id, TABLE)), infos.get(Key(layer_id, "offsets"))
    if table is None or offsets is None or len(table.shape) != 2 or len(offsets.shape) != 1:
        lacking = " or ".join(layout.released.names[name] for name in (TABLE, "offsets"))
        raise CorruptFileError(f"{stored.name}: it lacks {lacking}.")
    streams = max(1, len({key.number for key in infos} - {None}))
    columns, (rows, width) = offsets.shape[0], table.shape
    values = {"C": columns, "R": rows, "W": width, "E": columns * width, "M": streams}
    for key in layout.released.keys(layer_id, values["M"]):
        if key in infos:
            letters = layout.letters(key).split(", ")
            for letter, size in zip(letters, infos[key].shape, strict=False):
                values.setdefault(letter, size)
    return {"D": 0, "K": 0, **values}

"""Finds a memory's tensors under the names that its layout was published with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engram.addressing.primes import head_primes, stored_rows
from engram.checkpoints.published.family import text_part
from engram.checkpoints.published.recognise import Released, no_memory, open_stored, recognise
from engram.checkpoints.read.memory_source import MemorySource, as_stored, shapes_of
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError, UsageError
from engram.layouts import LAYOUTS
from engram.layouts.dialect import Key
from engram.storage.json_files import OBJECT, read_json

# What a memory under published names is made of, written beside it.
MEMORY_FILE = "engram_memory.json"


def published_memory(path: Path, config: EngramConfig | None) -> MemorySource:
    """Open a folder or file with published names; see `engram.checkpoints.read.open_memory`."""
    found = recognise(open_stored(path))
    if found is None:
        raise no_memory(open_stored(path))
    found.stored.demand_whole()
    stated = _stated(path)
    if stated is not None and config is None:
        config = EngramConfig.from_dict(stated["config"])
    config = config or found.memory.config
    layout = found.family.layout
    if layout not in LAYOUTS:
        raise LayoutError(
            f"{path} holds {found.family.title}: there is no module of that kind to convert to.",
            layout=layout,
        )
    if config is None:
        raise UsageError(f"{path} does not state the config of its memory.", "Give it: -c CONFIG")
    if config.layout != layout:
        raise MismatchError(
            f"{path} holds a memory of layout {layout}, the config is for {config.layout}.",
            "Give the config that the memory was made with.",
            stored=layout,
            expected=config.layout,
        )
    layers = {
        layer_id: _published_layer(found, layer_id, shapes_of(config, rows))
        for layer_id, rows in _rows(config).items()
    }
    others = {slot.layer_id for slot in found.slots.values()} - set(layers)
    if others:
        raise MismatchError(
            f"{path} also holds the memory of layer {sorted(map(str, others))[0]}, which the "
            f"config has not: {config.layer_ids}.",
            "Give the config that the memory was made with.",
            layer_ids=config.layer_ids,
        )
    size = LAYOUTS[layout].released.setting("compressed_vocab_size")
    return MemorySource(
        path,
        "published",
        as_stored(replace(config, tokenizer=None), layers),
        layers,
        found.stored.tensors,
        constants=tuple(_constants(found)),
        stated=None if stated is None else stated["addresses"],
        vocab_size=None if size is None else size.stated(text_part(found.stored.config)),
    )


def _published_layer(
    found: Released, layer_id: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """Gather one layer's tensors under our names."""
    keys = {
        slot.key
        for slot in found.slots.values()
        if slot.layer_id == layer_id and slot.role != "constants"
    }
    parts: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: key.number or 0):
        parts.setdefault(key.name, []).append(key)
    unknown = sorted(key.name for key in keys if not (key.known and key.name in shapes))
    missing = sorted(set(shapes) - set(parts))
    if unknown or missing:
        what = f"holds {unknown[0]}, which is not" if unknown else f"lacks {missing[0]}, which is"
        raise MismatchError(
            f"{found.stored.name}: layer {layer_id} {what} in its layout {found.family.layout}.",
            "Check it: engram verify " + found.stored.name,
            missing=missing,
            unknown=unknown,
        )
    made = {}
    for ours, shape in shapes.items():
        pieces = [info for key in parts[ours] for info in found.infos(key)]
        scales = [info for key in parts[ours] for info in found.infos(key, scale=True)]
        made[ours] = stored_tensor(f"layers.{layer_id} {ours}", shape, pieces, scales)
    return made


def _constants(found: Released) -> list[tuple[int, str, list[int]]]:
    return [
        (slot.layer_id, slot.key.name, found.stored.integers(name))
        for name, slot in found.slots.items()
        if slot.role == "constants" and slot.layer_id is not None
    ]


def _rows(config: EngramConfig) -> dict[int, int]:
    return {
        layer_id: stored_rows(primes, config.row_multiple)
        for layer_id, primes in head_primes(config).items()
    }


def _stated(path: Path) -> dict[str, Any] | None:
    """Read what `engram convert` wrote beside published names."""
    file = (path if path.is_dir() else path.parent) / MEMORY_FILE
    if not file.is_file():
        return None
    hint = "Restore it, or remove it and give -c CONFIG."
    values = read_json(file, {"config": OBJECT, "addresses": OBJECT}, hint=hint)
    return {"config": values["config"], "addresses": values["addresses"]}

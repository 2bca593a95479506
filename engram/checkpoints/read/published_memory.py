"""Finds a memory's tensors under the names that its layout was published with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engram.addressing.addresses import Addresses
from engram.addressing.primes import head_primes, stored_rows
from engram.checkpoints.published.family import text_part
from engram.checkpoints.published.recognise import Released
from engram.checkpoints.read.memory_tensors import parameter_shapes
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError, UsageError
from engram.layouts import LAYOUTS
from engram.layouts.dialect import Key


def config_of_release(found: Released, given: EngramConfig | None) -> EngramConfig:
    """Return the memory of a release in our terms.

    Args:
        found: The release.
        given: The memory, where it is stated beside the release.

    Raises:
        LayoutError: It is a kind of memory that is not converted.
        UsageError: Nobody states the config.
        MismatchError: The config is of another layout.
    """
    config, layout, name = given or found.memory.config, found.family.layout, found.stored.name
    if layout not in LAYOUTS:
        raise LayoutError(
            f"{name} holds {found.family.title}: there is no module of that kind to convert to.",
            layout=layout,
        )
    if config is None:
        raise UsageError(f"{name} does not state the config of its memory.", "Give it: -c CONFIG")
    if config.layout != layout:
        raise MismatchError(
            f"{name} holds a memory of layout {layout}, the config is for {config.layout}.",
            "Give the config that the memory was made with.",
            stored=layout,
            expected=config.layout,
        )
    return replace(config, tokenizer=None)


def layers_of_release(found: Released, config: EngramConfig) -> dict[int, dict[str, StoredTensor]]:
    """Gather the parameters of a release by layer, under our names.

    Args:
        found: The release.
        config: Its memory.

    Raises:
        MismatchError: The files do not fit the config.
    """
    layers = {
        layer_id: _published_layer(
            found, layer_id, parameter_shapes(config, stored_rows(primes, config.row_multiple))
        )
        for layer_id, primes in head_primes(config).items()
    }
    others = {slot.layer_id for slot in found.slots.values()} - set(layers)
    if others:
        raise MismatchError(
            f"{found.stored.name} also holds the memory of layer {sorted(map(str, others))[0]}, "
            f"which the config has not: {config.layer_ids}.",
            "Give the config that the memory was made with.",
            layer_ids=config.layer_ids,
        )
    return layers


def check_constants(found: Released, addresses: Addresses) -> None:
    """Compare the constants that a release stores with those that were computed.

    Raises:
        MismatchError: They differ: it is another tokenizer, or another config.
    """
    setting = LAYOUTS[found.family.layout].released.setting("compressed_vocab_size")
    vocab_size = None if setting is None else setting.stated(text_part(found.stored.config))
    if vocab_size not in (None, addresses.vocab_size):
        raise MismatchError(
            f"{found.stored.name} was made for {vocab_size} compressed ids, the tokenizer gives "
            f"{addresses.vocab_size}.",
            "Name the tokenizer that the memory was made with: -t TOKENIZER",
            stored=vocab_size,
            expected=addresses.vocab_size,
        )
    by_layer = {layer.layer_id: layer for layer in addresses.layers}
    for name, slot in found.slots.items():
        layer = None if slot.layer_id is None else by_layer.get(slot.layer_id)
        if layer is None or slot.role != "constants":
            continue
        stored = found.stored.integers(name)
        right = layer.constants[slot.key.name]
        if tuple(stored) != right:
            raise MismatchError(
                f"{found.stored.name}: layer {slot.layer_id} stores other {slot.key.name} than the "
                f"config gives: {stored}, not {list(right)}.",
                "Give the config, and the tokenizer, that the memory was made with.",
                stored=stored,
                expected=list(right),
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

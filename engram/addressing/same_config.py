"""Compares stored addresses with the memory's config."""

from __future__ import annotations

from typing import Any

from engram.addressing.addresses import Addresses, layer_addresses
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError
from engram.storage.json_files import COPY_AGAIN


def check_shape(addresses: Addresses, config: EngramConfig, where: str) -> None:
    """Compare the layout, layers, orders, heads and ids of stored addresses with a config.

    Args:
        addresses: The memory's constants.
        config: The memory.
        where: The file with both.

    Raises:
        MismatchError: They differ.
    """
    parts = {
        "layout": (addresses.layout.name, config.layout),
        "layer_ids": (addresses.layer_ids, config.layer_ids),
        "max_ngram_size": (addresses.max_ngram_size, config.max_ngram_size),
        "n_head_per_ngram": (addresses.n_heads, config.n_head_per_ngram),
        "engram_vocab_size": (addresses.raw_vocab_size, config.engram_vocab_size),
    }
    for key, (stored, stated) in parts.items():
        if stored != stated:
            raise MismatchError(
                f"{where}: the memory's addresses are for {key} {stored}, but its config has "
                f"{stated}.",
                COPY_AGAIN,
                path=where,
                key=key,
                stored=stored,
                expected=stated,
            )


def check_config(addresses: Addresses, config: EngramConfig, where: str) -> None:
    """Compare every constant of stored addresses with those that follow from a config.

    Args:
        addresses: The memory's constants.
        config: The memory.
        where: The file with both.

    Raises:
        MismatchError: They differ; the message names the layer and the first differing entry.
    """
    check_shape(addresses, config, where)
    right = layer_addresses(config, addresses.vocab_size, addresses.layer_ids)
    for layer, expected in zip(addresses.layers, right, strict=True):
        name = f"{where}: layer {layer.layer_id}: "
        check_constant(f"{name}primes", layer.heads, expected.heads)
        check_constant(f"{name}stored_rows", [layer.stored_rows], [expected.stored_rows])
        check_constant(f"{name}multipliers", layer.multipliers, expected.multipliers)


def check_constant(name: str, stored: Any, expected: Any) -> None:
    """Compare a stored constant with the one that follows from the config.

    Args:
        name: Layer and constant, as the subject of a message.
        stored: Its stored entries.
        expected: The right entries.

    Raises:
        MismatchError: They differ; the message names the first differing entry.
    """
    stored, expected = [int(value) for value in stored], [int(value) for value in expected]
    if stored == expected:
        return
    pairs = zip(stored, expected, strict=False)
    first = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    what = (
        f"must have {len(expected)} entries by the config, got {len(stored)}"
        if first is None
        else f"entry {first} must be {expected[first]} by the config, got {stored[first]}"
    )
    raise MismatchError(
        f"{name}: {what}. Wrong rows would be read.",
        COPY_AGAIN,
        constant=name,
        entry=first,
        stored=stored[:100],
        expected=expected[:100],
    )

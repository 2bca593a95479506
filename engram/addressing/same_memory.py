"""Compares a memory's stored addresses with its config, and with a tokenizer."""

from typing import Any

from engram.addressing.addresses import Addresses, TokenMap, layer_addresses, map_digest
from engram.addressing.tokenizer_files import TokenizerFile
from engram.addressing.vocabulary import compressed_map
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError
from engram.storage.json_files import COPY_AGAIN


def check_outline(addresses: Addresses, config: EngramConfig, where: str) -> None:
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
    check_outline(addresses, config, where)
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
    stored, expected = list(map(int, stored)), list(map(int, expected))
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


def check_tokenizer(addresses: Addresses, tokenizer: TokenizerFile) -> int:
    """Compare a tokenizer with the one that a memory was made with.

    Tokens that were added after the others do not matter: the memory treats them as masked.

    Args:
        addresses: The memory's constants, of a layout that hashes compressed ids.
        tokenizer: The tokenizer.

    Returns:
        The number of tokens added since.

    Raises:
        MismatchError: It is another tokenizer.
    """
    own = addresses.raw_vocab_size
    token_map = compressed_map(tokenizer)
    if len(token_map) < own or map_digest(token_map[:own]) != addresses.map_sha256:
        raise MismatchError(
            f"{tokenizer.name}: the tokenizer is not the one that the memory was made with: its "
            f"{len(token_map)} ids compress to {int(token_map.max()) + 1}, those of the memory's "
            f"{own} to {addresses.vocab_size}, or are grouped differently.",
            "Restore the tokenizer's files; otherwise n-grams would read the rows of others.",
            ids=len(token_map),
            expected_ids=own,
        )
    return len(token_map) - own


def map_of(addresses: Addresses, tokenizer: TokenizerFile) -> TokenMap:
    """Compute the token map of a memory from its tokenizer.

    Args:
        addresses: The memory's constants, of a layout that hashes compressed ids.
        tokenizer: The tokenizer.

    Returns:
        Compressed id per token id, int32 ``[V]``.

    Raises:
        MismatchError: It is another tokenizer.
    """
    check_tokenizer(addresses, tokenizer)
    return compressed_map(tokenizer)[: addresses.raw_vocab_size]

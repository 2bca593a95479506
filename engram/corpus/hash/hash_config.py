"""Chooses the memory that a text is hashed for: a config's, or one sized for the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.errors import InputError, MissingFileError

DEFAULT_TOKENIZER = "gpt2"


def sized_for(tokenizer: TokenizerFile) -> EngramConfig:
    """Return the memory of the template gpt2 with tables sized for another tokenizer.

    It has layout demo, 2- and 3-grams, 8 heads, layers 1 and 6, and, per order, twice as many rows
    as the tokenizer has ids.
    """
    template = load_template("gpt2")
    return replace(
        template,
        tokenizer=tokenizer.name,
        engram_vocab_size=tokenizer.vocab_size,
        engram_table_size=[2 * tokenizer.vocab_size] * len(template.orders),
        pad_id=None,
    )


def find_memory(
    config: EngramConfig | None,
    tokenizer: str | Path | None = None,
    layer_ids: Sequence[int] | None = None,
) -> tuple[EngramConfig, TokenizerFile, Addresses]:
    """Assemble the config, tokenizer and constants for hashing a text.

    Args:
        config: The memory; one sized for the tokenizer when None.
        tokenizer: Name or path of the tokenizer; the config's, or gpt2, when None.
        layer_ids: The config's layers to hash, all when None; without a config, the memory's
            layers.

    Returns:
        The config, the tokenizer and the constants.

    Raises:
        MissingFileError: The tokenizer cannot be reached.
        InputError: Neither the config nor the call names a tokenizer, or the config does not have
            a layer.
        MismatchError: The config was made for a tokenizer of another length.
        LayoutError: There are no layers, or no token to read before a text.
    """
    name = tokenizer or (config.tokenizer if config is not None else DEFAULT_TOKENIZER)
    if name is None:
        raise InputError("The config does not name a tokenizer.", "Give one with -t.")
    try:
        file = load_tokenizer(name)
    except MissingFileError as error:
        if tokenizer is not None:
            raise
        hint = f"Give a tokenizer with -t. {error.hint}"
        raise MissingFileError(error.message, hint, **error.details) from error
    if config is None:
        config = sized_for(file)
        return config, file, EngramTokenizer(config, file, layer_ids=layer_ids).addresses
    addresses = EngramTokenizer(config, file).addresses
    return config, file, addresses if layer_ids is None else _select(addresses, layer_ids)


def _select(addresses: Addresses, layer_ids: Sequence[int]) -> Addresses:
    """Keep the constants of some layers, computed together with all, on which they depend."""
    layers = {layer.layer_id: layer for layer in addresses.layers}
    unknown = [layer_id for layer_id in layer_ids if layer_id not in layers]
    if unknown:
        raise InputError(
            f"Layers must be among those of the memory, {', '.join(map(str, layers))}, got "
            f"{', '.join(map(str, unknown))}.",
            "Choose from them.",
            layer_ids=unknown,
            expected=list(layers),
        )
    return replace(addresses, layers=tuple(layers[layer_id] for layer_id in layer_ids))

"""Compares a tokenizer with the one that a memory was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.addressing.addresses import Addresses, TokenMap, map_digest
from engram.addressing.vocabulary import compressed_map
from engram.errors import MismatchError

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


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

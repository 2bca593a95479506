"""Warnings about valid but unlikely token ids in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.config.engram_config import EngramConfig

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


def token_doubts(config: EngramConfig, tokenizer: TokenizerFile | None) -> list[str]:
    """Return warnings about the token ids in a config, one sentence each.

    Args:
        config: The memory.
        tokenizer: Its tokenizer; None if it cannot be read.
    """
    if tokenizer is None or config.pad_id is None:
        return []
    tokens = tokenizer.tokenizer
    pad_id = tokens.token_to_id(config.pad_id) if isinstance(config.pad_id, str) else config.pad_id
    if pad_id is None:
        return [f"pad_id {config.pad_id!r} is not a token of {tokenizer.name}."]
    special = {i for i, token in tokens.get_added_tokens_decoder().items() if token.special}
    if pad_id in special | {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id}:
        return []
    return [
        f"pad_id {pad_id} is {tokens.id_to_token(pad_id)!r} in {tokenizer.name}, an ordinary token "
        "of texts: the start of a document reads the same rows as that token."
    ]

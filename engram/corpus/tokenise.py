"""Documents to token ids with the `tokenizers` library, in batches of whole documents."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.corpus.readers import Block
from engram.errors import InputError

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

Tokens = NDArray[np.unsignedinteger[Any]]

_BATCH_CHARACTERS = 2**20


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents as token ids.

    Attributes:
        tokens: The ids of all documents, one after the other, ``[n]``.
        boundaries: Where each document starts, and the end of the last, int64 ``[documents + 1]``.
        read_bytes: Bytes read of all files up to here, as stored.
    """

    tokens: Tokens
    boundaries: NDArray[np.int64]
    read_bytes: int


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the dtype that token shards use for ids below `vocab_size`: uint16 or uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def tokenise(
    blocks: Iterable[Block], tokenizer: TokenizerFile, *, add_eos: bool = False
) -> Generator[TokenBatch]:
    """Encode documents, each as a whole and without special tokens.

    Cutting a document would change ids at the cut, so that a very long one takes time and memory
    in one piece: about 150 bytes for each of its own.

    Args:
        blocks: Documents, from a `TextReader`.
        tokenizer: Its `tokenizers` object is used with as many threads as the environment variable
            RAYON_NUM_THREADS says, all cores without it.
        add_eos: Whether every document ends with the tokenizer's end-of-text token.

    Yields:
        About 1 MiB of documents at a time.

    Raises:
        InputError: There is no end-of-text token to add, or a document that cannot be encoded.
    """
    if add_eos and tokenizer.eos_id is None:
        raise InputError(
            f"The tokenizer {tokenizer.name} has no end-of-text token that could end a document.",
            "Leave out --eos.",
            tokenizer=tokenizer.name,
        )
    end = [tokenizer.eos_id] if add_eos else []
    for batch in _batches(blocks):
        yield _encode(batch, tokenizer, end)


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Put small blocks together, so that each batch feeds every core."""
    batch: list[Block] = []
    characters = 0
    for block in blocks:
        batch.append(block)
        characters += sum(map(len, block.texts))
        if characters >= _BATCH_CHARACTERS // 2:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(blocks: list[Block], tokenizer: TokenizerFile, end: list[Any]) -> TokenBatch:
    texts = [text for block in blocks for text in block.texts]
    try:
        encodings = tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except Exception as error:  # The library raises plain Exception.
        raise _encode_error(blocks, tokenizer, error) from error
    documents = [encoding.ids + end for encoding in encodings]
    boundaries = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)), out=boundaries[1:])
    tokens = np.fromiter(
        chain.from_iterable(documents), token_dtype(tokenizer.vocab_size), int(boundaries[-1])
    )
    return TokenBatch(tokens, boundaries, blocks[-1].read_bytes)


def _encode_error(blocks: list[Block], tokenizer: TokenizerFile, error: Exception) -> InputError:
    """Find the document that the tokenizer refused."""
    for block in blocks:
        for index, text in enumerate(block.texts):
            try:
                tokenizer.tokenizer.encode(text, add_special_tokens=False)
            except Exception:
                where = block.position(index)
                return InputError(
                    f"{where}: the tokenizer {tokenizer.name} cannot encode the document that "
                    f"starts here: {error}",
                    "Use another tokenizer, or leave the document out.",
                    document=where,
                    tokenizer=tokenizer.name,
                )
    return InputError(f"The tokenizer {tokenizer.name} failed: {error}", tokenizer=tokenizer.name)

"""Counts the UTF-8 bytes of the text that tokens stand for."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile

ByteCounter = Callable[[NDArray[Any]], int]


def byte_counter(tokenizer: TokenizerFile) -> tuple[ByteCounter, bool]:
    """Return a function that counts the bytes of tokens after the first of them ``[n]``.

    A special token has no bytes. Those of a byte-level tokenizer are the bytes of each token. Other
    tokens are decoded, and a character that they hold in part counts as what decoding makes of it.

    Returns:
        The function, and whether it is exact.
    """
    encoder = tokenizer.tokenizer
    if decoder_kind(encoder) != "ByteLevel":

        def count(ids: NDArray[Any]) -> int:
            # Together with the first token, since decoders change the start of a text.
            whole, first = (encoder.decode(part.tolist()) for part in (ids, ids[:1]))
            return len(whole.encode()) - len(first.encode())

        return count, False
    vocabulary, added = encoder.get_vocab(), encoder.get_added_tokens_decoder()
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token)  # a character stands for a byte
    for number, extra in added.items():
        sizes[number] = 0 if extra.special else len(extra.content.encode())
    return lambda ids: int(sizes[ids[1:]].sum()), True


def decoder_kind(encoder: Any) -> str | None:
    """Return the kind of a tokenizer's decoder, as its file names it; None without one.

    Args:
        encoder: A `tokenizers.Tokenizer`. Of a sequence of decoders ByteLevel is the kind, if it is
            among them.
    """
    if encoder.decoder is None:
        return None
    stated = json.loads(encoder.decoder.__getstate__())
    kinds = [it["type"] for it in stated.get("decoders", ())]
    return "ByteLevel" if "ByteLevel" in kinds else str(stated["type"])

"""Names the part of a word that each token of a text is: its start, its inside, or between words.

Shapes: n tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.training.token_bytes import decoder_kind

WORD_PARTS = (
    "start of a word",
    "inside a word",
    "digits",
    "punctuation",
    "space or line break",
    "part of a character",
    "special token",
)
_START, _INSIDE, _DIGITS, _PUNCTUATION, _SPACE, _CHARACTER, _SPECIAL = range(len(WORD_PARTS))
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_MARK = "\u2581"  # stands for a space, in SentencePiece's tokens
_UNDECODABLE = "\ufffd"


def word_parts(
    ids: NDArray[np.int64], before: NDArray[np.int64], tokenizer: TokenizerFile
) -> NDArray[np.int64]:
    """Return the place in `WORD_PARTS` of each token ``[n]``.

    Args:
        ids: The tokens ``[n]``.
        before: The tokens before them ``[n]``: letters after letters without a space between them
            are inside a word.
        tokenizer: Their tokenizer.
    """
    distinct, numbers = np.unique(np.concatenate([ids, before]), return_inverse=True)
    texts = _texts(distinct.tolist(), tokenizer)
    parts = np.array([_part(text) for text in texts])
    begins_with_space = np.array([(text or "")[:1].isspace() for text in texts])
    ends_in_word = np.array([(text or "")[-1:].isalnum() for text in texts])
    mine, previous = numbers[: len(ids)], numbers[len(ids) :]
    found = parts[mine]
    goes_on = (found == _START) & ends_in_word[previous] & ~begins_with_space[mine]
    return np.where(goes_on, _INSIDE, found)


def _part(text: str | None) -> int:
    """Return the part of a token by itself; letters start a word."""
    if text is None:
        return _SPECIAL
    if _UNDECODABLE in text:
        return _CHARACTER
    inner = text.strip()
    if not inner:
        return _SPACE
    if inner.isnumeric():
        return _DIGITS
    return _START if any(map(str.isalnum, inner)) else _PUNCTUATION


def _texts(ids: Sequence[int], tokenizer: TokenizerFile) -> list[str | None]:
    """Return the text of tokens, with a space where one is before them; None of special ones."""
    encoder = tokenizer.tokenizer
    special = {
        number for number, token in encoder.get_added_tokens_decoder().items() if token.special
    }
    kind = decoder_kind(encoder)
    if kind == "ByteLevel":
        texts: list[Any] = encoder.decode_batch([[it] for it in ids], skip_special_tokens=False)
    else:
        texts = [_marked(encoder.id_to_token(it) or "", kind) for it in ids]
    return [None if it in special else text for it, text in zip(ids, texts, strict=True)]


def _marked(token: str, kind: str | None) -> str:
    """Return the text of a token that is not of bytes."""
    if kind is None:
        return f" {token}"
    if kind == "WordPiece":
        return token[2:] if token.startswith("##") else f" {token}"
    if byte := _BYTE.fullmatch(token):
        code = int(byte[1], 16)
        return chr(code) if code < 0x80 else _UNDECODABLE
    return token.replace(_MARK, " ")

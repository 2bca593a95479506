"""Cuts very long documents without changing their token ids."""

from __future__ import annotations

import re
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

from engram.corpus.text.blocks import Block
from engram.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONG_CHARACTERS = 2**20
# Encoding this much in one piece takes about a GB.
MOST_CHARACTERS = 2**23
_PIECE = 2**18
_CONTEXT = 2**11
_MOST_TRIES = 64
# The end of a word: cutting a word, a number or a run of spaces would change the ids. Without
# spaces, as in base64 or compact JSON, a word ends before a sign.
_CANDIDATES = (re.compile(r"(?<=\S)(?=\s)"), re.compile(r"(?<=\w)(?=\W)"))


def cut_long(encoder: Tokenizer, text: str) -> list[str]:
    """Cut a document into pieces whose ids, one after the other, are those of the document.

    Encoding takes about 150 bytes of memory per byte of text in one piece. Most tokenizers split a
    text into words by their surroundings, and encode each word separately. So a position between
    two words is safe if cutting there does not change the ids around it, which is tried. Where no
    position is safe, as in a single word or with tokenizers that do not split words, the piece
    grows.

    Args:
        encoder: The tokenizer.
        text: The document.

    Returns:
        The pieces; the document itself if it is not long.
    """
    if len(text) <= LONG_CHARACTERS or encoder.pre_tokenizer is None:
        return [text]
    found = (_safe_cut(encoder, text, position) for position in _positions(text))
    cuts = [0, *(cut for cut in found if cut is not None), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]


def _positions(text: str) -> range:
    """Return the positions after each of which a document is cut once, if that is safe."""
    return range(_PIECE, len(text) - _PIECE, _PIECE)


def _may_be_cut(encoder: Tokenizer, text: str) -> bool:
    """Whether no piece of `cut_long` is too long; looks at few of its cuts if they are safe."""
    if encoder.pre_tokenizer is None:
        return False
    begin = 0
    while begin + MOST_CHARACTERS < len(text):
        # The last cut that is near enough is tried first.
        near = (at for at in reversed(_positions(text)) if begin < at <= begin + MOST_CHARACTERS)
        cuts = (_safe_cut(encoder, text, position) for position in near)
        found = next((c for c in cuts if c is not None and c <= begin + MOST_CHARACTERS), None)
        if found is None:
            return False
        begin = found
    return True


def too_long_to_encode(encoder: Tokenizer, block: Block, index: int) -> InputError | None:
    """Return the error for a document that is too long to encode, None if it is not.

    Examples are a long run of blank lines, a long word, or a document for a tokenizer that does not
    split words.
    """
    text = block.texts[index]
    if _may_be_cut(encoder, text):
        return None
    longest = max(map(len, cut_long(encoder, text)))
    if longest <= MOST_CHARACTERS:
        return None
    where = block.position(index)
    return InputError(
        f"{where}: the document that starts here has {longest:,} characters that must be encoded "
        f"in one piece; at most {MOST_CHARACTERS:,} fit into memory.",
        "Cut the text smaller, with --split line, or leave such documents out with --on-error "
        "skip.",
        document=where,
        characters=longest,
    )


def _safe_cut(encoder: Tokenizer, text: str, position: int) -> int | None:
    """Return the first safe cut after a position, None if there is none near it."""
    end = position + _PIECE
    matches = chain.from_iterable(
        islice(candidate.finditer(text, position, end), _MOST_TRIES) for candidate in _CANDIDATES
    )
    cuts = (match.start() for match in matches)
    return next((cut for cut in cuts if _is_safe(encoder, text, cut)), None)


def _is_safe(encoder: Tokenizer, text: str, cut: int) -> bool:
    """Whether the strings around a cut can be encoded separately, with the same ids as together."""
    before, after = text[cut - _CONTEXT : cut], text[cut : cut + _CONTEXT]
    whole, *parts = encoder.encode_batch_fast(
        [before + after, before, after], add_special_tokens=False
    )
    if whole.ids != parts[0].ids + parts[1].ids:
        return False
    # A word longer than the checked part may be encoded differently as a whole.
    if encoder.normalizer is not None:
        before, after = map(encoder.normalizer.normalize_str, (before, after))
    words = encoder.pre_tokenizer.pre_tokenize_str(before + after)
    return not any(start < len(before) < end for _, (start, end) in words)

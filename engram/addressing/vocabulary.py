"""The compressed vocabulary: merges token ids that differ in case, accents or spaces only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from engram.addressing.addresses import TokenMap
from engram.addressing.tokenizer_files import TokenizerFile
from engram.storage.disk_cache import read_cached, write_cached

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CACHE = "maps"
_UNDECODABLE = "\ufffd"
_LONE_SPACE = "\ue000"
# A noncharacter that no step of the normaliser changes: it separates the strings of a batch.
_SEPARATOR = "\ufdd0"
_BLANKS = re.compile(r"[ \t\r\n]+")
# White space by Unicode, as stripped by the normaliser's Strip; str.strip removes more.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def compressed_map(tokenizer: TokenizerFile) -> TokenMap:
    """Number the distinct normalised texts of a tokenizer's ids, in order of first appearance.

    The rule is that of the reference demo (deepseek-ai/Engram engram_demo_v1.py,
    CompressedTokenizer): an id's key is its decoded text, normalised by NFKC, NFD, without accents,
    in lower case, with runs of white space as one space, stripped; the text itself if nothing is
    left; and the raw token if the id is not text on its own. Cached by the tokenizer's digest.

    Args:
        tokenizer: The tokenizer.

    Returns:
        Compressed id per token id, int32 ``[V]``; the compressed size is its maximum plus one.
    """
    import tokenizers

    # The map depends on the Unicode tables of the library.
    key = f"{tokenizer.digest}-{tokenizers.__version__}"
    if (kept := read_cached(_CACHE, key)) is not None:
        return np.frombuffer(kept, dtype="<i4").astype(np.int32)
    token_map = build_map(tokenizer.tokenizer, tokenizer.vocab_size)
    write_cached(_CACHE, key, token_map.astype("<i4").tobytes())
    return token_map


def build_map(tokenizer: Tokenizer, vocab_size: int) -> TokenMap:
    """Compute the result of `compressed_map`."""
    texts = tokenizer.decode_batch([[i] for i in range(vocab_size)], skip_special_tokens=False)
    numbers: dict[str | None, int] = {}
    token_map = np.empty(vocab_size, dtype=np.int32)
    for i, (text, normal) in enumerate(zip(texts, _normalised(texts), strict=True)):
        key = tokenizer.id_to_token(i) if _UNDECODABLE in text else normal or text
        token_map[i] = numbers.setdefault(key, len(numbers))
    return token_map


def _normalised(texts: list[str]) -> list[str]:
    """Normalise strings: all that are not ASCII in one call of the library.

    The library's last steps, for single spaces and for white space around a text, are done here.
    """
    from tokenizers import Regex, normalizers

    normalise = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(_BLANKS.pattern), " "),
        ]
    ).normalize_str
    others = [text for text in texts if not text.isascii()]
    parts = normalise(_SEPARATOR.join(others)).split(_SEPARATOR)
    if len(parts) != len(others):  # a token contains the separator itself
        parts = [normalise(text) for text in others]
    rest = iter(parts)
    # For ASCII, the library's steps up to here change only case and white space.
    spaced = [_BLANKS.sub(" ", text.lower()) if text.isascii() else next(rest) for text in texts]
    return [
        text if text == " " else text.strip(_WHITE_SPACE).replace(_LONE_SPACE, " ")
        for text in spaced
    ]

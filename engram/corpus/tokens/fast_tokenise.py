"""Encodes with gigatoken if its ids are certain to equal those of `tokenizers`, else with that.

The two have Unicode tables of different versions, treat the strings of added tokens differently,
and may have different bugs. So a document goes to gigatoken only if it has no string that may be an
added token, and only characters that both were found to encode alike; and a few documents of every
batch are encoded by both.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import unicodedata
from itertools import chain, compress, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.text.blocks import grouped
from engram.corpus.tokens.cutting import cut_long

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Loading gigatoken takes as long as encoding this much text with `tokenizers`.
WORTH_BYTES = 2**23

_GROUP_CHARACTERS = 2**20
# Memory of an encoding besides its tokens, as characters of text.
_TEXT_OVERHEAD = 16
_SAMPLE_CHARACTERS = 2**11
_LONGEST_COMPARED = 2**14
# More than the frequent words of a text, which would seem new again and again.
_WORDS_CHARACTERS = 2**15
# gigatoken keeps about 11 bytes for each byte of a new word.
_MOST_FRESH_CHARACTERS = 2**26
_ASCII = 128
_UNTRIED, _TRUSTED, _REFUSED = 0, 1, 2
# Characters of which one that begins no added token joins documents, so that none is found across
# two of them.
_BETWEEN = "\0\1\2\3\4\5\6\7"
# All kinds of neighbours that the patterns for words distinguish.
_SURROUNDINGS = "a{0}b1{0}2 {0} {0}{0}.{0}\n{0}'s  {0}\n\n {0}é{0}字{0}\t{0}"
_UNASSIGNED = ("Cn", "Co", "Cs")
# The process that imported this file; forks of it lack its threads.
_PROCESS = os.getpid()


class FastEncoder:
    """Encodes documents with gigatoken or `tokenizers`; the ids are those of `tokenizers`.

    Args:
        tokenizer: The tokenizer.

    Attributes:
        reference_documents: Documents that went to `tokenizers`.
        problem: The difference found in the check of a batch, after which everything goes to
            `tokenizers`; empty if there was none.

    Raises:
        ImportError: gigatoken is not installed.
        ValueError: gigatoken is not safe for this tokenizer; the message has the reason.
    """

    def __init__(self, tokenizer: TokenizerFile) -> None:
        reference = tokenizer.tokenizer
        _check_kind(reference)
        # Tokens that were added to it since do not matter: their strings go to `tokenizers`.
        self._source = (
            tokenizer.path.read_bytes() if tokenizer.path else reference.to_str().encode()
        )
        self._reference = reference
        self._fast = _load(self._source)
        added = reference.get_added_tokens_decoder().values()
        starts = sorted({token.content[:2] for token in added if token.content})
        # Matches in every string with an added token.
        self._added = re.compile("|".join(map(re.escape, starts)) or r"(?!)")
        free = [it for it in _BETWEEN if not any(it in start for start in starts)]
        if not free:
            raise ValueError("its added tokens begin with control characters")
        self._between = free[0]
        self._characters = np.zeros(0x110000, np.uint8)
        self._fresh_characters = 0.0
        self._words: set[int] = set()
        self._random = random.Random()
        self._parallel = _may_use_threads()
        self.reference_documents = 0
        self.problem = ""
        self._try(range(_ASCII))
        if (self._characters[:_ASCII] != _TRUSTED).any():
            raise ValueError("gigatoken does not encode ASCII as tokenizers does")

    def encode(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Encode documents.

        Args:
            texts: The documents.

        Returns:
            Ids of all documents, one after the other, and the length of each.
        """
        trusted = self._trusted(texts)
        mine = list(compress(texts, trusted))
        tokens, lengths = self._encode_fast(mine)
        if not self._is_equal(mine, tokens, lengths):
            trusted[:] = False
            tokens, lengths = tokens[:0], lengths[:0]
        if trusted.all():
            return tokens, lengths
        others = list(compress(texts, ~trusted))
        self.reference_documents += len(others)
        more, more_lengths = encode_reference(self._reference, others)
        all_lengths = np.empty(len(texts), np.int64)
        all_lengths[trusted], all_lengths[~trusted] = lengths, more_lengths
        is_mine = np.repeat(trusted, all_lengths)
        merged = np.empty(len(is_mine), np.uint32)
        merged[is_mine], merged[~is_mine] = tokens, more
        return merged, all_lengths

    def _trusted(self, texts: list[str]) -> NDArray[np.bool_]:
        """Whether both encode each string alike; all of them are looked at in one pass."""
        trusted = np.full(len(texts), not self.problem)
        if self.problem or not texts:
            return trusted
        added = (match.start() for match in self._added.finditer(self._between.join(texts)))
        trusted[_documents_of(list(added), texts)] = False
        wide = [index for index, text in enumerate(texts) if not text.isascii()]
        chosen = [texts[index] for index in wide]
        unknown = _documents_of(self._unknown(self._between.join(chosen)), chosen)
        trusted[np.array(wide, np.int64)[unknown]] = False
        return trusted

    def _unknown(self, text: str) -> list[int]:
        """Return the positions of characters that are not encoded alike; new ones are tried."""
        found: list[int] = []
        for begin in range(0, len(text), _GROUP_CHARACTERS):
            part = text[begin : begin + _GROUP_CHARACTERS]
            points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32)
            wide = points[points >= _ASCII]
            states = self._characters[wide]
            if not states.all():
                self._try(np.unique(wide[states == _UNTRIED]).tolist())
                states = self._characters[wide]
            if (states != _TRUSTED).any():
                found += (np.flatnonzero(self._characters[points] != _TRUSTED) + begin).tolist()
        return found

    def _try(self, points: Any) -> None:
        assigned = [p for p in points if unicodedata.category(chr(p)) not in _UNASSIGNED]
        self._characters[list(points)] = _REFUSED
        texts = [_SURROUNDINGS.format(chr(point)) for point in assigned]
        fast, lengths = self._encode_fast(texts)
        ends = np.cumsum(lengths)
        known = self._reference.encode_batch_fast(texts, add_special_tokens=False)
        for point, encoding, end, length in zip(assigned, known, ends, lengths, strict=True):
            if fast[end - length : end].tolist() == encoding.ids:
                self._characters[point] = _TRUSTED

    def _encode_fast(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        self._bound_memory(texts)
        layout = self._fast.encode_batch(texts, parallel=self._parallel).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    def _bound_memory(self, texts: list[str]) -> None:
        """Replace the encoder after it has seen many new words."""
        first = self._random.randrange(len(texts))
        size = sum(map(len, texts))
        words: set[int] = set()
        left = _WORDS_CHARACTERS
        for text in islice(texts, first, None):
            words.update(map(hash, text[:left].split()))
            left -= len(text)
            if left <= 0:
                break
        if words:
            self._fresh_characters += size * len(words - self._words) / len(words)
            self._words |= words
        if self._fresh_characters > _MOST_FRESH_CHARACTERS:
            self._fresh_characters = 0
            self._words.clear()
            self._fast = _load(self._source)

    def _is_equal(self, texts: list[str], tokens: NDArray[Any], lengths: NDArray[np.int64]) -> bool:
        """Compare a random document, or several short ones, with `tokenizers`."""
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        left = _SAMPLE_CHARACTERS
        for index in self._random.sample(range(len(texts)), min(len(texts), 16)):
            text, found = texts[index], tokens[bounds[index] : bounds[index + 1]]
            if len(text) > _LONGEST_COMPARED:
                text = text[:_LONGEST_COMPARED]
                found, _ = self._encode_fast([text])
            ids = self._reference.encode(text, add_special_tokens=False).ids
            if ids != found.tolist():
                self.problem = (
                    "gigatoken gave other ids than tokenizers for the document that begins with "
                    f"{text[:60]!r}; the rest was encoded by tokenizers. Documents before it were "
                    "compared in samples only."
                )
                return False
            left -= len(text)
            if left <= 0:
                break
        return True


def _documents_of(positions: list[int], texts: list[str]) -> NDArray[np.int64]:
    """Return the index of the text at each position of texts joined by one character."""
    if not positions:
        return np.empty(0, np.int64)
    ends = np.cumsum([len(text) + 1 for text in texts])
    return np.searchsorted(ends, positions, side="right")


def encode_reference(
    reference: Tokenizer, texts: list[str]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Encode documents with `tokenizers`; returns what `FastEncoder.encode` does."""
    pieces = [cut_long(reference, text) for text in texts]
    parts: list[NDArray[Any]] = []
    lengths: list[int] = []
    all_pieces = chain.from_iterable(pieces)
    for group in grouped(all_pieces, lambda text: len(text) + _TEXT_OVERHEAD, _GROUP_CHARACTERS):
        encodings = reference.encode_batch_fast(group, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        sizes = list(map(len, ids))
        lengths += sizes
        parts.append(np.fromiter(chain.from_iterable(ids), np.uint32, sum(sizes)))
    firsts = np.cumsum([0, *map(len, pieces[:-1])])
    return np.concatenate(parts), np.add.reduceat(np.array(lengths, np.int64), firsts)


def _may_use_threads() -> bool:
    """Whether to encode with more than one thread; in a worker process only if configured."""
    if os.getpid() != _PROCESS:
        return False
    threads = os.environ.get("RAYON_NUM_THREADS")
    return multiprocessing.parent_process() is None if threads is None else threads != "1"


def _check_kind(reference: Tokenizer) -> None:
    """Check that a tokenizer is of the tested kind: byte-level BPE, plain or NFC."""
    model, normalizer = reference.model, reference.normalizer
    if type(model).__name__ != "BPE" or model.dropout or model.byte_fallback:
        raise ValueError("gigatoken is used for byte-level BPE only")
    steps = [json.loads(normalizer.__getstate__())] if normalizer is not None else []
    while steps:
        step = steps.pop()
        if step["type"] == "Sequence":
            steps += step["normalizers"]
        elif step["type"] != "NFC":
            raise ValueError("gigatoken is used where text is normalised to NFC or not at all")


def _load(source: bytes) -> Any:
    from gigatoken.gigatoken_rs import BPETokenizer, load_hf_json

    try:
        encoder = load_hf_json(source)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        raise ValueError(f"gigatoken cannot read it: {str(error).splitlines()[0]}") from error
    if not isinstance(encoder, BPETokenizer):
        raise ValueError("gigatoken is used for byte-level BPE only")
    return encoder

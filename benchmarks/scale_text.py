"""A text of any length whose n-grams keep growing, made from a short one: for `scale.py`.

The text is repeated. In every repetition but the first, one word in six is replaced by another word
of the same length from elsewhere in it. Of the 3-grams of english.txt's first repetition about one
in eleven is then new; between 30 and 100 MB of it, one in five was. Places and words follow from
the number of the repetition alone, by integer arithmetic: the text is the same everywhere, and a
shorter one is the beginning of a longer one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANGED = 1 / 6
_LONGEST_WORD = 16
_TAIL_BYTES = 2**20


class GrowingText:
    """The text.

    Args:
        base: What is repeated; bytes that are not UTF-8 are left out.
        changed: Part of the words that each repetition replaces.
    """

    def __init__(self, base: bytes, changed: float = CHANGED) -> None:
        clean = base.decode("utf-8", errors="ignore").rstrip().encode() + b"\n\n"
        self._base = np.frombuffer(clean, np.uint8)
        self._words = _words_by_length(self._base)
        self._changed = changed

    def repetition(self, number: int) -> NDArray[np.uint8]:
        """Return one repetition; number 0 is the text as it is."""
        if number == 0:
            return self._base
        text = self._base.copy()
        for length, starts in self._words.items():
            count = int(len(starts) * self._changed)
            seed = number * _LONGEST_WORD + length
            places, others = _random(seed, 2 * count).reshape(2, count) % np.uint64(len(starts))
            letters = np.arange(length)
            text[starts[places][:, None] + letters] = self._base[starts[others][:, None] + letters]
        return text

    def fit(self, path: Path, size_bytes: int) -> int:
        """Make a file hold the beginning of the text.

        What the file already holds of it stays: it is extended, or cut.

        Args:
            path: The file, absent or written by this function.
            size_bytes: Most bytes; the file ends with the last line that ends before.

        Returns:
            Bytes of the file.
        """
        with path.open("a+b") as file:
            have = file.seek(0, os.SEEK_END)
            while have < size_bytes:
                number, begin = divmod(have, len(self._base))
                piece = self.repetition(number)[begin : begin + size_bytes - have]
                have += file.write(piece.tobytes())
            file.seek(max(0, size_bytes - _TAIL_BYTES))
            tail_start = file.tell()
            tail = file.read(size_bytes - tail_start)
            end = tail_start + tail.rfind(b"\n") + 1
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
        return end


def _words_by_length(text: NDArray[np.uint8]) -> dict[int, NDArray[np.int64]]:
    """Return the starts of all words of ASCII letters, by their length."""
    is_letter = np.zeros(256, np.int8)
    is_letter[[*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)]] = 1
    edges = np.diff(is_letter[text], prepend=np.int8(0), append=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    lengths = ends - starts
    found = {length: starts[lengths == length] for length in range(2, _LONGEST_WORD)}
    return {length: starts for length, starts in found.items() if len(starts)}


def _random(seed: int, count: int) -> NDArray[np.uint64]:
    """Return random words: splitmix64 of a counter, since numpy's streams may change."""
    words = np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

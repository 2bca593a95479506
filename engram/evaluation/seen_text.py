"""Finds the tokens and n-grams of an evaluated text in another one, such as that of the training.

Shapes: n counted tokens, P positions of all windows, N the highest n-gram order, V token ids.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.reference import look_back
from engram.addressing.text_rows import ngrams_of, readable
from engram.errors import InputError
from engram.evaluation.counted_tokens import CountedTokens
from engram.training.document_loss import window_starts
from engram.training.documents import TrainingDocuments

_CHUNK_TOKENS = 2**18


@dataclass(frozen=True, eq=False)
class Seen:
    """Occurrences of an evaluated text's tokens in another one.

    Attributes:
        counts: Occurrences of each token id in the other text ``[V]``, for all ids that the memory
            or the evaluated text knows.
        orders: By counted token: the highest order of which the n-gram that ends at the token
            before it, as the memory reads it there, occurs in the other text; 0 for none, and where
            the token before it is one that the memory cannot read ``[n]``.
    """

    counts: NDArray[np.int64]
    orders: NDArray[np.int64]


class _Ngrams:
    """The distinct n-grams of positions, and whether they were found.

    An n-gram is numbered by the number of its last n - 1 tokens and the token before them, so that
    numbers are exact for any order: of few distinct n-grams, many texts can be searched.

    Args:
        slots: Tokens that each position reads, the last first ``[P, N]``.
        vocab_size: Ids of the hashed vocabulary.
    """

    def __init__(self, slots: NDArray[np.int64], vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._keys: list[NDArray[np.int64]] = []
        self._numbers: list[NDArray[np.int64]] = []
        self._found: list[NDArray[np.bool_]] = []
        numbers = slots[:, 0]
        for column in slots.T[1:]:
            keys, numbers = np.unique(numbers * vocab_size + column, return_inverse=True)
            self._keys.append(keys)
            self._numbers.append(numbers)
            self._found.append(np.zeros(len(keys), dtype=bool))

    def search(self, slots: NDArray[np.int64]) -> None:
        """Mark the n-grams that occur among those of other positions ``[any, N]``."""
        numbers = slots[:, 0]
        for place, keys in enumerate(self._keys):
            wanted = numbers * self._vocab_size + slots[:, place + 1]
            numbers = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            # The longer n-grams of those that do not occur here do not either.
            same = keys[numbers] == wanted
            slots, numbers = slots[same], numbers[same]
            self._found[place][numbers] = True

    def orders(self) -> NDArray[np.int64]:
        """Return the highest order that was found at each position, 0 for none ``[P]``."""
        found = [mark[numbers] for mark, numbers in zip(self._found, self._numbers, strict=True)]
        longest: NDArray[np.int64] = np.sum(found, axis=0, dtype=np.int64)
        return np.where(longest > 0, longest + 1, 0)


def find_seen(
    text: CountedTokens,
    seen: TrainingDocuments,
    addresses: Addresses,
    left_out: Collection[int] = (),
) -> Seen:
    """Count the tokens of a text, and find the n-grams that an evaluated text shares with it.

    The other text is read once, in pieces, whatever its size; n-grams are compared, not hashes.

    Args:
        text: The evaluated text.
        seen: The other text.
        addresses: The memory, with its token map.
        left_out: Numbers of documents of the other text that do not count.

    Raises:
        InputError: Nothing of the other text counts.
    """
    evaluated = np.concatenate([window.ids for window in text.windows])
    are_starts = window_starts(text.windows)
    ngrams = _Ngrams(ngrams_of(addresses, evaluated, are_starts).slots, addresses.vocab_size)
    without = np.zeros(len(seen), dtype=bool)
    without[list(left_out)] = True
    if not seen.lengths[~without].any():
        raise InputError(
            "Every token of the seen text is evaluated: nothing of it was seen before.",
            "Give another text with --seen, such as the one that was trained on.",
        )
    counts = np.zeros(max(addresses.raw_vocab_size, int(text.ids.max()) + 1), np.int64)
    history = None
    for begin in range(0, seen.n_tokens, _CHUNK_TOKENS):
        end = min(begin + _CHUNK_TOKENS, seen.n_tokens)
        ids, starts = seen.read(begin, end)
        own, known = readable(addresses, ids)
        slots, history = look_back(addresses, own[None], known[None], starts[None], history)
        counted = np.ones(len(ids), dtype=bool)
        if left_out:
            number = np.searchsorted(seen.boundaries, np.arange(begin, end), side="right") - 1
            counted = ~without[number]
        counts += np.bincount(ids[counted], minlength=len(counts))[: len(counts)]
        ngrams.search(slots[0][counted & known])
    orders = np.where(readable(addresses, evaluated)[1], ngrams.orders(), 0)
    # The last token of a window predicts none; the next one's first comes after it.
    return Seen(counts, orders[~np.append(are_starts[1:], True)])

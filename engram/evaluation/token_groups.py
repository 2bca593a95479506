"""`TokenGroup`: the gain of a group of tokens, and the groups by frequency, n-gram and word part.

Shapes: n counted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.evaluation.counted_tokens import CountedTokens
from engram.evaluation.seen_text import Seen
from engram.evaluation.word_parts import WORD_PARTS, word_parts

By = Literal["frequency", "ngram", "word_part"]


@dataclass(frozen=True)
class TokenGroup:
    """Losses of a group of tokens with the memory on and off.

    Attributes:
        by: The property that makes the groups.
        group: The group's name.
        tokens: Number of its tokens.
        nats_on: Mean loss of its tokens with the memory.
        nats_off: Mean loss of its tokens with the memory off.
        share_of_gain: Its part of the gain of all tokens; None where that is zero.
    """

    by: By
    group: str
    tokens: int
    nats_on: float
    nats_off: float
    share_of_gain: float | None

    @property
    def gain(self) -> float:
        """Nats a token that the memory takes off the loss."""
        return self.nats_off - self.nats_on

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "by": self.by,
            "group": self.group,
            "tokens": self.tokens,
            "nats_on": self.nats_on,
            "nats_off": self.nats_off,
            "gain": self.gain,
            "share_of_gain": self.share_of_gain,
        }


def all_groups(
    text: CountedTokens,
    seen: Seen | None,
    on: NDArray[np.float64],
    off: NDArray[np.float64],
    tokenizer: TokenizerFile,
    highest_order: int,
) -> tuple[TokenGroup, ...]:
    """Divide tokens by frequency, by n-gram, and by the part of a word that they are.

    Args:
        text: The tokens.
        seen: Occurrences in another text; without it tokens are counted in this one, and nothing is
            said of n-grams.
        on: Losses with the memory ``[n]``.
        off: Losses with the memory off ``[n]``.
        tokenizer: Their tokenizer.
        highest_order: Highest n-gram order of the memory.
    """
    counts = text.id_counts() if seen is None else seen.counts
    groups = group_tokens("frequency", *frequency_labels(counts[text.ids]), on, off)
    if seen is not None:
        groups += group_tokens("ngram", *ngram_labels(seen.orders, highest_order), on, off)
    parts = word_parts(text.ids, text.before, tokenizer)
    return (*groups, *group_tokens("word_part", WORD_PARTS, parts, on, off))


def group_tokens(
    by: By,
    names: Sequence[str],
    labels: NDArray[np.int64],
    on: NDArray[np.float64],
    off: NDArray[np.float64],
) -> list[TokenGroup]:
    """Divide tokens into groups; those without a token are left out.

    Args:
        by: The property that makes the groups.
        names: Names of the groups.
        labels: The place of each token's group among them ``[n]``.
        on: Losses with the memory ``[n]``.
        off: Losses with the memory off ``[n]``.
    """
    counts = np.bincount(labels, minlength=len(names))
    sums = [np.bincount(labels, nats, minlength=len(names)) for nats in (on, off)]
    total = float(off.sum() - on.sum())
    return [
        TokenGroup(
            by,
            names[label],
            int(counts[label]),
            float(sums[0][label] / counts[label]),
            float(sums[1][label] / counts[label]),
            float((sums[1][label] - sums[0][label]) / total) if total else None,
        )
        for label in np.flatnonzero(counts).tolist()
    ]


def frequency_labels(counts: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Group numbers by their digits.

    Args:
        counts: How often each token occurs ``[n]``.

    Returns:
        Names such as 0, 1-9 and 10-99, and the place of each token's among them ``[n]``.
    """
    digits = len(str(int(counts.max(initial=1))))
    bounds = [10**power for power in range(digits)]
    names = ["0", *(f"{bound}-{10 * bound - 1}" for bound in bounds)]
    return names, np.searchsorted(bounds, counts, side="right").astype(np.int64)


def ngram_labels(orders: NDArray[np.int64], highest: int) -> tuple[list[str], NDArray[np.int64]]:
    """Group the highest orders that were seen, 0 for none ``[n]``; see `frequency_labels`."""
    names = ["none", *(str(order) for order in range(2, highest + 1))]
    return names, np.maximum(orders - 1, 0)

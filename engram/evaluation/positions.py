"""`PositionBucket`: losses by the number of tokens before the predicted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.units import plural


@dataclass(frozen=True)
class PositionBucket:
    """Losses of tokens that have so many tokens before them in their window.

    Attributes:
        first: The fewest tokens before.
        last: The most tokens before.
        tokens: Number of tokens in the bucket.
        runs: Mean loss by run.
    """

    first: int
    last: int
    tokens: int
    runs: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LongWindows:
    """The windows of which losses by position are told.

    Short documents have tokens at low positions alone, and are often of another kind: buckets of
    all windows would compare texts rather than positions.

    Attributes:
        least_tokens: Tokens of a window, at least: the context if there is a window of so many,
            else half of the longest.
        windows: Number of these windows.
        left_out: Number of shorter ones.
        tokens: True for the counted tokens that are in one of these windows ``[n]``.
    """

    least_tokens: int
    windows: int
    left_out: int
    tokens: NDArray[np.bool_] = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on the windows that they are of; none if these are all."""
        if not self.left_out:
            return ()
        return (
            f"Losses by position are of {plural(self.windows, 'window')} of at least "
            f"{self.least_tokens:,} tokens: short documents have no high positions.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "least_tokens": self.least_tokens,
            "windows": self.windows,
            "left_out": self.left_out,
        }


def long_windows(lengths: Sequence[int], context: int) -> LongWindows:
    """Choose the windows of which losses by position are told.

    Args:
        lengths: Tokens of every window, of which all but the first are counted.
        context: Tokens of a window, at most.
    """
    sizes = np.array(lengths)
    longest = int(sizes.max())
    least = context if longest == context else max(2, (longest + 1) // 2)
    chosen = sizes >= least
    count = int(chosen.sum())
    return LongWindows(least, count, len(sizes) - count, np.repeat(chosen, sizes - 1))


def position_buckets(
    positions: NDArray[np.int64],
    nats: Mapping[str, NDArray[np.float64]],
    chosen: NDArray[np.bool_],
) -> list[PositionBucket]:
    """Divide tokens by powers of two: 1, 2 to 3, 4 to 7, and so on.

    Args:
        positions: Tokens before each in its window, at least one ``[n]``.
        nats: Losses by run ``[n]``.
        chosen: Whether a token is divided ``[n]``, such as those of `long_windows`.
    """
    positions = positions[chosen]
    nats = {name: of[chosen] for name, of in nats.items()}
    powers = np.arange(int(positions.max()).bit_length())
    labels = np.searchsorted(2**powers, positions, side="right") - 1
    counts = np.bincount(labels, minlength=len(powers))
    sums = {name: np.bincount(labels, of, minlength=len(powers)) for name, of in nats.items()}
    return [
        PositionBucket(
            first=2 ** int(power),
            last=min(2 ** (int(power) + 1) - 1, int(positions.max())),
            tokens=int(counts[power]),
            runs={name: float(total[power] / counts[power]) for name, total in sums.items()},
        )
        for power in np.flatnonzero(counts)
    ]

"""`PositionBucket`: losses by the number of tokens before the predicted one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def position_buckets(
    positions: NDArray[np.int64], nats: Mapping[str, NDArray[np.float64]]
) -> list[PositionBucket]:
    """Divide tokens by powers of two: 1, 2 to 3, 4 to 7, and so on.

    Args:
        positions: Tokens before each in its window, at least one ``[n]``.
        nats: Losses by run ``[n]``.
    """
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

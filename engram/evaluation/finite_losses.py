"""Refuses losses that are not finite numbers, by the run that they are of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engram.errors import InputError


def demand_finite(nats: NDArray[np.float64], run: str) -> None:
    """See that every loss is a finite number.

    Args:
        nats: Losses of tokens ``[n]``.
        run: Name of the run.

    Raises:
        InputError: One is not.
    """
    wrong = int((~np.isfinite(nats)).sum())
    if wrong:
        raise InputError(
            f"The loss of {wrong:,} of {len(nats):,} tokens is not a finite number in the run "
            f"{run}.",
            "Find out which weights are damaged: engram verify. A model in float16 may need "
            "another dtype.",
            run=run,
        )

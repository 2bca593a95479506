"""The constants of a memory in the form that the compiled kernel reads: one array and two flags."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses

# Flags of a position: a document starts there; it is masked.
START = 1
MASKED = 2
# End-of-document token of memories without one.
NO_END = -(2**63)


def pack(addresses: Addresses, offsets: bool) -> NDArray[np.uint64]:
    """Pack the constants in the form that the kernel reads.

    Args:
        addresses: The memory's constants.
        offsets: Whether ids count from the start of the layer's table instead of the head's part.

    Returns:
        uint64 ``[L, N + 4 C]``: a layer's multipliers, then per order the primes of its heads,
        the lower and the upper halves of their reciprocals ``floor(2^64 / p)``, and the offsets
        that are added to their ids.
    """
    heads = addresses.n_heads
    rows = []
    for layer in addresses.layers:
        row = list(layer.multipliers)
        for order, primes in enumerate(layer.primes):
            firsts = layer.offsets[order * heads : (order + 1) * heads]
            bars = [2**64 // prime for prime in primes]
            row += [*primes, *(bar % 2**32 for bar in bars), *(bar >> 32 for bar in bars)]
            row += firsts if offsets else [0] * heads
        rows.append(row)
    return np.array(rows, dtype=np.uint64)

"""The hash in numpy, in chunks that fit the processor's cache.

It is used when loading the compiled kernel would take longer than the hashing. Shapes: B sequences,
T tokens, L layers, C columns, N the highest n-gram order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.addressing.reference import Ids, Mask, look_back

_CHUNK_TOKENS = 4096
# For fewer tokens than this, divisions cost less than calling numpy for every head.
_FEW_TOKENS = 32


def hash_chunks(
    addresses: Addresses,
    ids: NDArray[Any],
    keep: Mask | None,
    starts: Mask | None,
    history: Ids,
    offsets: bool,
    out: NDArray[Any],
) -> Ids:
    """Hash token ids; equal to `reference.hash_ids`.

    Args:
        addresses: The memory's constants.
        ids: Token ids ``[B, T]``, of any integer dtype.
        keep: See `reference.look_back`.
        starts: See `reference.look_back`.
        history: See `reference.look_back`.
        offsets: Whether ids count from the start of the layer's table.
        out: Output for the ids ``[B, T, L, C]``, int64 or int32.

    Returns:
        The history ``[B, N-1]`` for the next call.
    """
    batch, length = ids.shape
    n_rows = max(1, _CHUNK_TOKENS // max(length, 1))
    n_columns = max(1, _CHUNK_TOKENS // n_rows)
    past = history.copy()
    for top in range(0, batch, n_rows):
        rows = slice(top, top + n_rows)
        for left in range(0, length, n_columns):
            part = (rows, slice(left, left + n_columns))
            slots, past[rows] = look_back(
                addresses,
                ids[part],
                None if keep is None else keep[part],
                None if starts is None else starts[part],
                past[rows],
            )
            for index, layer in enumerate(addresses.layers):
                _hash_layer(layer, slots, offsets, out[part][:, :, index])
    return past


def _hash_layer(layer: LayerAddresses, slots: Ids, offsets: bool, out: NDArray[Any]) -> None:
    """Fill `out` ``[B, T, C]`` with one layer's ids for the slots ``[B, T, N]``."""
    factors = np.array(layer.multipliers, dtype=np.uint64).astype(np.int64)
    mix = slots[:, :, 0] * factors[0]
    column = 0
    for k, primes in enumerate(layer.primes, start=1):
        mix = mix ^ slots[:, :, k] * factors[k]
        heads = out[:, :, column : column + len(primes)]
        column += len(primes)
        if mix.size < _FEW_TOKENS:
            heads[:] = mix[:, :, None] % np.array(primes)
            continue
        # Numpy divides unsigned numbers by a scalar without a division; only negative ids give
        # negative mixes.
        dividend = mix.view(np.uint64) if int(mix.min()) >= 0 else mix
        for head, prime in enumerate(primes):
            divisor = dividend.dtype.type(prime)
            heads[:, :, head] = dividend - (dividend // divisor) * divisor
    if offsets:
        out += np.array(layer.offsets)

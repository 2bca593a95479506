"""Hash ids in plain numpy: the readable reference for all faster forms, and the fastest in numpy.

Shapes: B sequences, T tokens, L layers, C = (N - 1) * H columns, N the highest n-gram order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.errors import InputError, LayoutError

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

# A chunk fits the processor's cache.
_CHUNK_TOKENS = 4096
# For fewer tokens than this, divisions cost less than calling numpy for every head.
_FEW_TOKENS = 32


def check_ids(addresses: Addresses, ids: NDArray[np.integer]) -> None:
    """Raise an error for ids that the memory's tokenizer does not have; negative ids pass.

    Args:
        addresses: The memory's constants.
        ids: Token ids of any shape.

    Raises:
        InputError: An id is not below the tokenizer's length; the message names the first.
    """
    if not ids.size or int(ids.max()) < addresses.raw_vocab_size:
        return
    where = tuple(map(int, np.argwhere(ids >= addresses.raw_vocab_size)[0]))
    raise InputError(
        f"Token ids must be below {addresses.raw_vocab_size}, the length of the memory's "
        f"tokenizer, got {int(ids[where])} at position {list(where)}.",
        "Use that tokenizer.",
        token_id=int(ids[where]),
        position=list(where),
        vocab_size=addresses.raw_vocab_size,
    )


def compress(addresses: Addresses, ids: Ids) -> Ids:
    """Map token ids to the vocabulary that is hashed.

    Args:
        addresses: The memory's constants.
        ids: Token ids of any shape. Negative ids pass through unchanged, as in the reference demo.

    Returns:
        Ids of the hashed vocabulary, int64, same shape.

    Raises:
        InputError: An id is not below the tokenizer's length.
        LayoutError: The constants lack the token map that the layout needs.
    """
    check_ids(addresses, np.asarray(ids))
    ids = np.asarray(ids, dtype=np.int64)
    if addresses.map_sha256 is None:
        return ids
    if addresses.token_map is None:
        raise LayoutError(
            "The memory hashes compressed ids, but its constants lack the token map.",
            "Add it: addresses.with_map(token_map)",
        )
    return np.where(ids >= 0, addresses.token_map[np.maximum(ids, 0)], ids)


def look_back(
    addresses: Addresses,
    ids: Ids,
    keep: Mask | None = None,
    starts: Mask | None = None,
    history: Ids | None = None,
) -> tuple[Ids, Ids]:
    """Return the N tokens that each position reads, side by side.

    Slot k of a position holds the token k positions back, or the fill if that is blocked. Blocking
    is sticky: everything before a blocked token is blocked too. Blocked are positions before the
    sequence, before a start, at or before a masked position, and, if the layout or config says so,
    at or before the token that ends a document. A masked position reads the fill even in slot 0.

    Args:
        addresses: The memory's constants.
        ids: Token ids ``[B, T]``.
        keep: False at masked positions ``[B, T]``; None when there are none.
        starts: True where a document starts ``[B, T]``; None when only position 0 does.
        history: Slots N-2..0 of the position before the first ``[B, N-1]``, oldest first, as
            returned by the previous call; None at the start of a text.

    Returns:
        The slots ``[B, T, N]``, ids of the hashed vocabulary, and the history ``[B, N-1]`` for the
        next call.

    Raises:
        InputError: See `compress`.
    """
    compressed = compress(addresses, ids)
    batch, length = compressed.shape
    past = addresses.max_ngram_size - 1
    if history is None:
        history = np.full((batch, past), addresses.fill, dtype=np.int64)
    tokens = np.concatenate([history, compressed], axis=1)
    alive = np.ones((batch, length), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    # reachable[:, t]: whether position t may look back at t - 1.
    reachable = np.ones((batch, past + length + 1), dtype=bool)
    reachable[:, past + 1 :] = alive
    if starts is not None:
        reachable[:, past:-1] &= ~starts
    if addresses.end_id is not None:
        reachable[:, past + 1 :] &= np.asarray(ids) != addresses.end_id
    slots = np.full((batch, length + 1, past + 1), addresses.fill, dtype=np.int64)
    slots[:, :-1, 0] = np.where(alive, compressed, addresses.fill)
    open_ = np.hstack([alive, np.ones((batch, 1), dtype=bool)])
    for k in range(1, past + 1):
        # One position after the sequence is added: its slots are the history of the next call.
        open_ &= reachable[:, past - k + 1 : past - k + 2 + length]
        shifted = tokens[:, past - k : past - k + 1 + length]
        slots[:, :, k] = np.where(open_, shifted, addresses.fill)
    return slots[:, :-1], slots[:, -1, :0:-1]


def hash_ids(
    addresses: Addresses,
    ids: Ids,
    keep: Mask | None = None,
    starts: Mask | None = None,
    history: Ids | None = None,
) -> tuple[Ids, Ids]:
    """Hash token ids to rows of the heads' tables in every layer.

    Args:
        addresses: The memory's constants.
        ids: Token ids ``[B, T]``.
        keep: See `look_back`.
        starts: See `look_back`.
        history: See `look_back`.

    Returns:
        Hash ids without offsets, int64 ``[B, T, L, C]`` with column ``(order - 2) * H + head``, and
        the history ``[B, N-1]`` for the next call.

    Raises:
        InputError: An id is not below the tokenizer's length.
    """
    slots, history = look_back(addresses, ids, keep, starts, history)
    columns = []
    for layer in addresses.layers:
        factors = np.array(layer.multipliers, dtype=np.uint64).astype(np.int64)
        mix = slots[:, :, 0] * factors[0]
        for order, primes in zip(addresses.orders, layer.primes, strict=True):
            # Products of ids and multipliers stay below 2^63; only negative ids can overflow, as
            # in numpy.
            mix = mix ^ slots[:, :, order - 1] * factors[order - 1]
            columns += [mix % prime for prime in primes]
    batch, length = slots.shape[:2]
    hashed = np.stack(columns, axis=-1) if columns else np.empty((batch, length, 0), dtype=np.int64)
    return hashed.reshape(batch, length, len(addresses.layers), addresses.n_columns), history


def hash_chunks(
    addresses: Addresses,
    ids: NDArray[Any],
    keep: Mask | None,
    starts: Mask | None,
    history: Ids,
    offsets: bool,
    out: NDArray[Any],
) -> Ids:
    """Hash token ids as `hash_ids` does, in chunks that fit the processor's cache.

    It is used when loading the compiled kernel would take longer than the hashing.

    Args:
        addresses: The memory's constants.
        ids: Token ids ``[B, T]``, of any integer dtype.
        keep: See `look_back`.
        starts: See `look_back`.
        history: See `look_back`.
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

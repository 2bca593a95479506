"""The compiled hash: one pass over tokens, for every layout; imported only when used.

A block of tokens goes through three steps, whose arrays stay in the first cache: the tokens that
each position reads, the mixes, and the remainders (`remainders`), which are most of the work.

Gains, as times of the form before / after. On a Cascade Lake at 2.5 GHz (AVX-512; AVX2): doubles
and blocks instead of 64-bit Barrett remainders, token by token, 1.4; 1.7 at 64k tokens on one
thread; fetching the output's lines ahead 1.3; 1.2 at 64k tokens, 1.2; 1.5 at 1M tokens. On a Zen 4
(AVX-512): the constants of all heads in registers 1.3 at 64k tokens, up to 1.7 with more layers;
stores past the caches 1.4 at 1M tokens, where the output is larger than they are.

Tried without gain: one layer after the other over a block with its constants in registers (1.4
times slower on the Zen 4: the output is written in strides), and on the Cascade Lake stores past
the caches, which took as long as plain ones. There, the remainders alone, written in C with
intrinsics, took 0.40 (AVX-512) and 0.46 (AVX2) ns an id at 64k tokens.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit  # noqa: TID253 - this module is itself imported only when needed

from engram.addressing.hash_inputs import KINDS, LOW_BITS, MASKED, multipliers_width
from engram.addressing.remainders import finish_stores, store_remainders, stores_past_caches
from engram.storage.machine_code import compiled

# Tokens a block, and mixes a block: their arrays stay in the first cache of any processor.
_BLOCK_TOKENS = 128
_BLOCK_MIXES = 1024


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _compress(ids: Any, token_map: Any, tokens: Any, vocab_size: Any) -> Any:
    """Fill `tokens` with the compressed ids of a piece of a row; return the highest id."""
    highest = np.int64(-1)
    if token_map.size == 0:
        for i in range(ids.size):
            token = np.int64(ids[i])
            highest = max(highest, token)
            tokens[i] = token
        return highest
    for i in range(ids.size):
        token = np.int64(ids[i])
        highest = max(highest, token)
        if token >= vocab_size:
            return highest
        # An unsigned index needs no check for negative ones.
        tokens[i] = np.int64(token_map[np.uint64(token)]) if token >= 0 else token
    return highest


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _look_back(
    ids: Any, flags: Any, window: Any, slots: Any, at: Any, fill: Any, end_id: Any
) -> None:
    """Fill the slots of a piece of a row; slot 0 holds its compressed ids.

    Args:
        ids: Token ids of the piece ``[n]``.
        flags: Its flags ``[n]``, or empty.
        window: The tokens before it ``[N-1]``; afterwards those before the next piece.
        slots: Slot k ``[N, at + n or more]`` holds the token k positions back.
        at: Column of the first token in `slots`.
        fill: The id that is read where look-back is blocked.
        end_id: The token that ends documents.
    """
    n, past = ids.size, window.size
    has_flags = flags.size > 0
    tokens = slots[0, at : at + n]
    if has_flags:
        for i in range(n):
            if flags[i] & MASKED:
                tokens[i] = fill
    for k in range(1, past + 1):
        slot = slots[k, at : at + n]
        for i in range(min(k, n)):
            slot[i] = window[past - k + i]
        for i in range(k, n):
            slot[i] = tokens[i - k]
    ends = False
    if has_flags or end_id >= 0:
        for i in range(n):
            if ends or (has_flags and flags[i] != 0):
                # Whatever is before this position is blocked for it and those after it.
                for k in range(1, past + 1):
                    for j in range(min(k, n - i)):
                        slots[k, at + i + j] = fill
            ends = (end_id >= 0 and ids[i] == end_id) or (has_flags and flags[i] & MASKED != 0)
    for k in range(past):
        window[past - 1 - k] = fill if ends else slots[k, at + n - 1]


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _mix(slots: Any, constants: Any, n: Any, mixes: Any, high: Any, low: Any) -> None:
    """Compute a block's mixes, each in two parts.

    Args:
        slots: See `_look_back`.
        constants: See `hash_inputs.pack`.
        n: Positions of the block.
        mixes: Room for one number a position.
        high: The upper parts ``[L * orders, n or more]``, of the mix plus 2^63.
        low: The lower parts, of the same shape.
    """
    n_orders = slots.shape[0] - 1
    for layer in range(constants.shape[0]):
        tokens, factor = slots[0], constants[layer, 0]
        for i in range(n):
            # Negative ids give negative mixes: with the sign flipped, all are counted from -2^63.
            mixes[i] = np.uint64(tokens[i]) * factor ^ np.uint64(2**63)
        for order in range(n_orders):
            tokens, factor = slots[order + 1], constants[layer, order + 1]
            upper, lower = high[layer * n_orders + order], low[layer * n_orders + order]
            for i in range(n):
                mixes[i] ^= np.uint64(tokens[i]) * factor
            for i in range(n):
                upper[i] = np.float64(mixes[i] >> np.uint64(LOW_BITS))
            for i in range(n):
                lower[i] = np.float64(mixes[i] & np.uint64(2**LOW_BITS - 1))


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _divide(slots: Any, constants: Any, at: Any, i: Any, rows: Any) -> None:
    """Hash one position with divisions, for primes that doubles do not allow.

    Args:
        slots: See `_look_back`.
        constants: See `hash_inputs.pack`.
        at: Index of a layer's first prime.
        i: Column of the position.
        rows: Its ids ``[L, C]``.
    """
    n_orders = slots.shape[0] - 1
    heads = rows.shape[1] // n_orders
    for layer in range(rows.shape[0]):
        mix = np.uint64(slots[0, i]) * constants[layer, 0]
        place = at
        for order in range(n_orders):
            mix ^= np.uint64(slots[order + 1, i]) * constants[layer, order + 1]
            for head in range(heads):
                # Floor modulo, as in numpy: ids may be negative.
                rest = np.int64(mix) % np.int64(constants[layer, place + head])
                first = np.int64(constants[layer, place + heads + head])
                rows[layer, order * heads + head] = rest + first
            place += KINDS * heads


def make_hash_range(n_layers: int, n_orders: int, n_heads: int) -> Callable[..., int]:
    """Compile the kernel for fixed numbers of layers, orders and heads.

    Args:
        n_layers: Layers.
        n_orders: Orders of n-grams.
        n_heads: Hash heads per order.

    Returns:
        ``hash_range(ids, token_map, constants, flags, window, out, begin, end, is_large,
        in_doubles, vocab_size, fill, end_id)``. It hashes the positions begin..end-1 of the
        flattened `ids` ``[B, T]`` into `out` ``[B, T, L, C]``. `window` ``[B, N-1]`` holds the
        tokens before each row, oldest first, and afterwards those before the position after the
        last one hashed. `flags` ``[B, T]`` (or empty) marks positions with START and MASKED.
        `is_large` says that the caches will not hold `out`, which is aligned to 16 bytes then.
        `in_doubles` is the form of the constants (`hash_inputs.fits_doubles`). Returns -1, or a
        position at or before the first whose id is not below `vocab_size`, where it stopped.
    """
    past = n_orders
    origin = multipliers_width(n_orders)
    # Numba knows the length of a tuple at compile time, but not the value of an int.
    sizes = (0,) * n_layers, (0,) * n_orders, (0,) * n_heads
    through = (*sizes, ())
    past_caches = (*sizes, (0,) * stores_past_caches(n_heads))

    @compiled(nogil=True, error_model="numpy")
    def hash_range(
        ids: Any,
        token_map: Any,
        constants: Any,
        flags: Any,
        window: Any,
        out: Any,
        begin: Any,
        end: Any,
        is_large: Any,
        in_doubles: Any,
        vocab_size: Any,
        fill: Any,
        end_id: Any,
    ) -> Any:
        length, groups = ids.shape[1], n_layers * n_orders
        room = min(max(_BLOCK_MIXES // groups, 8), _BLOCK_TOKENS, end - begin + past)
        # One piece of memory: for a single token, asking for each would take long.
        scratch = np.empty((past + 2 + 2 * groups, room), np.int64)
        slots, mixes = scratch[: past + 1], scratch[past + 1].view(np.uint64)
        parts = scratch[past + 2 :].view(np.float64)
        high, low = parts[:groups], parts[groups:]
        row, to = begin // length, np.intp(begin * groups * n_heads)
        # A range that starts inside a row first fills the window with the tokens before it.
        at = max(begin - row * length - past, 0)
        if at > 0:
            window[row, :] = fill
        position = row * length + at
        while position < end:
            n, skipped = 0, max(begin - position, 0)
            while n < room and position < end:
                m = min(length - at, room - n, end - position)
                piece = ids[row, at : at + m]
                if _compress(piece, token_map, slots[0, n : n + m], vocab_size) >= vocab_size:
                    return position
                marks = flags[row, at : at + m] if flags.size > 0 else flags[:0].reshape(0)
                _look_back(piece, marks, window[row], slots, n, fill, end_id)
                n, at, position = n + m, at + m, position + m
                if at == length:
                    at, row = 0, row + 1
            if in_doubles:
                _mix(slots, constants, n, mixes, high, low)
                first, last, width = np.intp(skipped), np.intp(n), np.intp(room)
                if is_large:
                    store_remainders(high, low, width, constants, first, last, out, to, past_caches)
                else:
                    store_remainders(high, low, width, constants, first, last, out, to, through)
                to += np.intp((n - skipped) * groups * n_heads)
            else:
                for i in range(skipped, n):
                    where = position - n + i
                    _divide(slots, constants, origin, i, out[where // length, where % length])
        if is_large:
            finish_stores()
        return -1

    return hash_range  # type: ignore[no-any-return]

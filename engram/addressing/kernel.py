"""The compiled hash: one pass over tokens, for every layout; imported only when used.

A remainder by a constant needs no division (Barrett 1986): with ``bar = floor(2^64 / p)``, the
upper half of ``mix * bar`` is the quotient of ``mix / p``, or one less. Leaving out the product of
the two lower halves makes it at most one less again, and needs only 32-bit products, which
processors compute for whole vectors: eight heads at a time, unlike divisions and 128-bit products.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types  # noqa: TID253 - this module is itself imported only when needed
from numba.extending import intrinsic  # noqa: TID253

from engram.addressing.hash_inputs import MASKED
from engram.storage.machine_code import compiled

LANES = 8


@intrinsic  # type: ignore[untyped-decorator]
def _store_rows(
    context: Any,
    mix: Any,
    constants: Any,
    at: Any,
    heads: Any,
    out: Any,
    to: Any,
    streamed: Any,
    lanes: Any,
) -> Any:
    """Reduce one mix by the primes of neighbouring heads and store the rows, as vectors.

    Args:
        context: Numba's typing context.
        mix: The mix, below 2^63.
        constants: See `hash_inputs.pack`.
        at: Index of the first head's prime in the flat `constants`.
        heads: Heads per order: the distance to the next kind of constants.
        out: Ids; the dtype may be narrower than 64 bits.
        to: Index of the first head's id in the flat `out`.
        streamed: Whether to bypass the processor's caches; needs `out` aligned to 16 bytes.
        lanes: A tuple whose length is the number of heads.
    """
    index = types.intp
    signature = types.void(types.uint64, constants, index, index, out, index, types.boolean, lanes)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        mix, constants, at, heads, out, to, streamed, _ = values
        lanes, word = signature.args[7].count, ir.IntType(64)
        vector = ir.VectorType(word, lanes)

        def splat(number: int) -> Any:
            return ir.Constant(vector, [number] * lanes)

        def load(index: Any) -> Any:
            data = context.make_array(signature.args[1])(context, builder, constants).data
            pointer = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
            return builder.load(pointer, align=8)

        kinds = []
        for _ in range(4):
            kinds.append(load(at))
            at = builder.add(at, heads)
        prime, low_bar, high_bar, first = kinds
        whole = splat(0)
        for lane in range(lanes):
            whole = builder.insert_element(whole, mix, ir.Constant(ir.IntType(32), lane))
        half, low_bits = splat(32), splat(2**32 - 1)
        low, high = builder.and_(whole, low_bits), builder.lshr(whole, half)
        # Loaded values have no upper half either; this tells the compiler.
        low_bar, high_bar = builder.and_(low_bar, low_bits), builder.and_(high_bar, low_bits)
        # Both products are below 2^63.
        cross = builder.add(builder.mul(low, high_bar), builder.mul(high, low_bar))
        quotient = builder.add(builder.mul(high, high_bar), builder.lshr(cross, half))
        rest = builder.sub(whole, builder.mul(quotient, prime))
        for _ in range(2):
            # A negative difference wraps around, and is the larger of the two.
            less = builder.sub(rest, prime)
            rest = builder.select(builder.icmp_unsigned("<", less, rest), less, rest)
        row = builder.add(rest, first)
        array = signature.args[4]
        if array.dtype.bitwidth < 64:
            row = builder.trunc(row, ir.VectorType(ir.IntType(array.dtype.bitwidth), lanes))
        data = context.make_array(array)(context, builder, out).data
        pointer = builder.bitcast(builder.gep(data, [to]), row.type.as_pointer())
        past_caches = builder.icmp_unsigned("!=", streamed, ir.Constant(streamed.type, 0))
        with builder.if_else(past_caches) as (then, otherwise):
            with then:
                store = builder.store(row, pointer, align=16)
                one = ir.Constant(ir.IntType(32), 1)
                store.set_metadata("nontemporal", builder.module.add_metadata([one]))
            with otherwise:
                builder.store(row, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


def make_hash_range(n_orders: int, n_heads: int) -> Callable[..., int]:
    """Compile the kernel for a fixed number of orders and heads.

    Args:
        n_orders: Orders of n-grams.
        n_heads: Hash heads per order.

    Returns:
        ``hash_range(ids, token_map, constants, flags, window, out, begin, end, streamed,
        vocab_size, fill, end_id)``. It hashes the positions begin..end-1 of the flattened `ids`
        ``[B, T]`` into `out` ``[B, T, L, C]``. `window` ``[B, N-1]`` holds the tokens before each
        row, oldest first, and afterwards those before the position after the last one hashed.
        `flags` ``[B, T]`` (or empty) marks positions with START and MASKED. `streamed` means that
        `out` is larger than the processor should cache, and aligned to 16 bytes. Returns -1, or
        the first position whose id is not below `vocab_size`, where it stopped.
    """
    past = n_orders
    block = 4 * n_heads
    full = n_heads // LANES * LANES
    rest = n_heads - full
    # Numba knows the length of a tuple at compile time, but not the value of an int.
    lanes, rest_lanes = (0,) * LANES, (0,) * rest

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
        streamed: Any,
        vocab_size: Any,
        fill: Any,
        end_id: Any,
    ) -> Any:
        length = ids.shape[1]
        layers = constants.shape[0]
        width = constants.shape[1]
        has_map = token_map.size > 0
        has_flags = flags.size > 0
        # If the heads do not fill a vector, stores would not be aligned to 16 bytes.
        streamed = streamed and rest == 0
        to = np.intp(begin * layers * n_orders * n_heads)
        for row in range(begin // length, (end - 1) // length + 1):
            first = max(begin - row * length, 0)
            last = min(end - row * length, length)
            # A range that starts inside a row first fills the window with the tokens before it.
            start = max(first - past, 0)
            if start > 0:
                window[row, :] = fill
            for t in range(start, last):
                token = np.int64(ids[row, t])
                if token >= vocab_size:
                    return row * length + t
                ends = token == end_id
                if has_map and token >= 0:
                    token = np.int64(token_map[token])
                if has_flags:
                    flag = flags[row, t]
                    if flag & MASKED:
                        token, ends = fill, True
                    if flag:
                        window[row, :] = fill
                if t >= first:
                    for layer in range(layers):
                        at = np.intp(layer * width + past + 1)
                        mix = np.uint64(token) * constants[layer, 0]
                        for order in range(n_orders):
                            other = np.uint64(window[row, past - 1 - order])
                            mix ^= other * constants[layer, order + 1]
                            if np.int64(mix) >= 0:
                                for head in range(0, full, LANES):
                                    _store_rows(
                                        mix,
                                        constants,
                                        at + head,
                                        n_heads,
                                        out,
                                        to + head,
                                        streamed,
                                        lanes,
                                    )
                                if rest > 0:
                                    _store_rows(
                                        mix,
                                        constants,
                                        at + full,
                                        n_heads,
                                        out,
                                        to + full,
                                        False,
                                        rest_lanes,
                                    )
                            else:
                                # Only negative ids reach this line: floor modulo, as in numpy.
                                for head in range(n_heads):
                                    column = past + 1 + order * block + head
                                    prime = np.int64(constants[layer, column])
                                    shift = np.int64(constants[layer, column + 3 * n_heads])
                                    remainder = np.int64(mix) % prime
                                    out[row, t, layer, order * n_heads + head] = remainder + shift
                            at += block
                            to += n_heads
                for k in range(past - 1):
                    window[row, k] = window[row, k + 1]
                window[row, past - 1] = token
                if ends:
                    window[row, :] = fill
        return -1

    return hash_range  # type: ignore[no-any-return]

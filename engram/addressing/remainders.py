"""Remainders of mixes by the primes of all heads, as vectors whose constants stay in registers.

A remainder by a constant needs no division. With a mix cut at bit 50 into ``high * 2^50 + low``::

    folded = high * (2^50 % p) + low + shift
    rest = folded - round(folded / p) * p

`folded` is congruent to the mix, and for odd sizes p below 2^35 it is below 2^51: doubles hold it,
every product above and their differences exactly, whether or not the processor fuses
multiplications and additions. The quotient is within 0.4 / p of the true one, and no multiple of
1 / p is nearer to a half than 0.5 / p, so rounding it is exact too. `rest` is in
-(p - 1) / 2..(p - 1) / 2; `shift` moves that range to 0..p - 1 in advance. Adding 2^52 leaves the
row in the lower bits of the double. A vector of rows so takes seven operations that AVX2, AVX-512
and NEON all have.
"""

from typing import Any

from llvmlite import binding, ir
from numba import types  # noqa: TID253 - this module is itself imported only when needed
from numba.extending import intrinsic  # noqa: TID253

from engram.addressing.hash_inputs import ALIGNED_BYTES, KINDS, multipliers_width
from engram.storage.machine_code import prefetch

LANES = 8
# Distance at which the output's lines are fetched before they are written.
_AHEAD_BYTES = 2048

_DOUBLE, _NUMBER = ir.DoubleType(), ir.IntType(32)


def stores_past_caches(heads: int) -> bool:
    """Whether large outputs are stored past the caches: on AMD's processors, in whole vectors."""
    return heads % LANES == 0 and str(binding.get_host_cpu_name()).startswith("znver")


@intrinsic  # type: ignore[untyped-decorator]
def store_remainders(
    context: Any,
    high: Any,
    low: Any,
    room: Any,
    constants: Any,
    begin: Any,
    end: Any,
    out: Any,
    to: Any,
    sizes: Any,
) -> Any:
    """Reduce the mixes of some positions by the primes of all heads, and store the rows.

    Args:
        context: Numba's typing context.
        high: Upper parts of the mixes, float64 ``[L * orders, room]``.
        low: Lower parts of the mixes, of the same shape.
        room: Distance between the mixes of two orders.
        constants: See `hash_inputs.pack`.
        begin: First position among the mixes.
        end: Position after the last.
        out: Ids; the dtype may be narrower than 64 bits.
        to: Index of the first position's first id in the flat `out`.
        sizes: Tuples whose lengths are known to the compiler: as many items as there are layers, as
            orders and as heads; and one item if stores go past the caches, else none. For those,
            `out` is aligned to 16 bytes.
    """
    index = types.intp
    signature = types.void(high, low, index, constants, index, index, out, index, sizes)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        layers, orders, heads, past_caches = (part.count for part in signature.args[8])
        room, begin, end, to = values[2], values[4], values[5], values[7]
        highs, lows, packed, ids = (
            context.make_array(signature.args[at])(context, builder, values[at]).data
            for at in (0, 1, 3, 6)
        )
        bits = signature.args[6].dtype.bitwidth

        def number(value: int) -> Any:
            return ir.Constant(to.type, value)

        # Group, first column and lanes of every vector; loaded once for all positions.
        vectors = [
            (group, group * heads + head, min(LANES, heads - head))
            for group in range(layers * orders)
            for head in range(0, heads, LANES)
        ]
        width = multipliers_width(orders) + KINDS * orders * heads
        loaded = []
        for group, column, lanes in vectors:
            layer, order = divmod(group, orders)
            first = layer * width + multipliers_width(orders) + KINDS * order * heads
            first += column - group * heads
            places = [builder.gep(packed, [number(first + kind * heads)]) for kind in range(KINDS)]
            vector = ir.VectorType(_DOUBLE, lanes).as_pointer()
            loaded.append([builder.load(builder.bitcast(it, vector), align=8) for it in places])

        before = builder.block
        body, done = map(builder.append_basic_block, ("position", "done"))
        builder.cbranch(builder.icmp_signed("<", begin, end), body, done)
        builder.position_at_end(body)
        position, target = builder.phi(to.type), builder.phi(to.type)
        position.add_incoming(begin, before)
        target.add_incoming(to, before)
        for (group, column, lanes), held in zip(vectors, loaded, strict=True):
            mix = builder.add(builder.mul(room, number(group)), position)
            rows = _reduced(
                builder,
                _repeated(builder, builder.load(builder.gep(highs, [mix])), lanes),
                _repeated(builder, builder.load(builder.gep(lows, [mix])), lanes),
                held,
            )
            if bits < 64:
                rows = builder.trunc(rows, ir.VectorType(ir.IntType(bits), lanes))
            place = builder.gep(ids, [builder.add(target, number(column))])
            pointer = builder.bitcast(place, rows.type.as_pointer())
            if past_caches:
                store = builder.store(rows, pointer, align=ALIGNED_BYTES)
                one = builder.module.add_metadata([ir.Constant(_NUMBER, 1)])
                store.set_metadata("nontemporal", one)
            else:
                prefetch(builder, builder.gep(place, [number(8 * _AHEAD_BYTES // bits)]))
                builder.store(rows, pointer, align=bits // 8)
        following = builder.add(position, number(1))
        position.add_incoming(following, builder.block)
        target.add_incoming(builder.add(target, number(layers * orders * heads)), builder.block)
        builder.cbranch(builder.icmp_signed("<", following, end), body, done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def finish_stores(context: Any) -> Any:
    """Let other threads see what was stored past the caches."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _repeated(builder: Any, number: Any, lanes: int) -> Any:
    """Return a vector that holds a number in every lane."""
    vector = ir.VectorType(_DOUBLE, lanes)
    empty, first = ir.Constant(vector, ir.Undefined), ir.Constant(_NUMBER, 0)
    zeros = ir.Constant(ir.VectorType(_NUMBER, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(empty, number, first), empty, zeros)


def _reduced(builder: Any, high: Any, low: Any, constants: Any) -> Any:
    """Return rows from a vector of mixes, see the module."""
    shift, fold, inverse, prime, last = constants
    vector, fused = high.type, ("contract",)
    folded = builder.fadd(
        builder.fmul(high, fold, flags=fused), builder.fadd(low, shift), flags=fused
    )
    # Adding this number rounds: it leaves no bits after the point.
    whole = ir.Constant(vector, [1.5 * 2**52] * vector.count)
    quotient = builder.fadd(builder.fmul(folded, inverse, flags=fused), whole, flags=fused)
    quotient = builder.fsub(quotient, whole)
    rest = builder.fsub(folded, builder.fmul(quotient, prime, flags=fused), flags=fused)
    words = ir.VectorType(ir.IntType(64), vector.count)
    row = builder.bitcast(builder.fadd(rest, last), words)
    return builder.and_(row, ir.Constant(words, [2**52 - 1] * vector.count))

"""Compiled passes over everything between a module's projections and its result.

A pass walks one span of a sequence, token by token, and keeps what the convolution reaches back to
in a ring of rows, so that each input is read from memory once and each result written once. The
backward pass computes the forward values again. Its result for a token needs the gradients of the
tokens that the taps reach: it runs that many tokens after the span, and as many before it.

Imported only when used.

Shapes: B sequences, T tokens, M streams, D hidden size, K taps, W tokens of the window, R rows of a
ring: the reach of the taps and the present token.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from engram.storage.machine_code import compiled

# Sums may be reordered, which vectors need; infinities and NaN keep their meaning.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
# Reordering would cancel the addition that rounds.
_IN_ORDER: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract"}}

_ONE = np.float32(1)
_LARGEST = np.float32(87)  # e^87 is below the largest float32
_PER_LN2 = np.float32(1 / math.log(2))
_LN2 = np.float32(0.693359375)
_LN2_REST = np.float32(-2.12194440e-4)
# Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits.
_ROUNDER = np.float32(1.5 * 2**23)
# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, as the Cephes library has it.
_E5, _E4, _E3, _E2, _E1, _E0 = (
    np.float32(factor)
    for factor in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(context: Any, rounded: Any) -> Any:
    """Return two to the integer in the lowest bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(32)
        exponent = builder.add(builder.bitcast(values[0], word), ir.Constant(word, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@njit(**_IN_ORDER)  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Any:
    """Compute the sigmoid within 2e-7 of its value, in operations that vectors have."""
    negative = min(max(-x, -_LARGEST), _LARGEST)
    rounded = negative * _PER_LN2 + _ROUNDER
    whole = rounded - _ROUNDER
    rest = negative - whole * _LN2 - whole * _LN2_REST
    series = ((((_E5 * rest + _E4) * rest + _E3) * rest + _E2) * rest + _E1) * rest + _E0
    power = (series * (rest * rest) + (rest + _ONE)) * _power_of_two(rounded)
    return _ONE / (_ONE + power)


# Columns of a token's state: one over the root mean squares of key and stream, their agreement, the
# gate, the sum of the value's squares, and one over the root mean square of the gated value.
_KEY_RSTD, _STREAM_RSTD, _AGREEMENT, _GATE, _SQUARE, _RSTD = range(6)

# Loops over the channels of one token. They are short, since the compiler makes vectors only of
# loops with few arrays, which it must compare.


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _products(keys: Any, streams: Any, weight: Any) -> Any:
    key_square, stream_square, product = np.float32(0), np.float32(0), np.float32(0)
    for d in range(keys.size):
        key_square += keys[d] * keys[d]
        stream_square += streams[d] * streams[d]
        product += keys[d] * streams[d] * weight[d]
    return key_square, stream_square, product


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _dot(x: Any, y: Any) -> Any:
    product = np.float32(0)
    for d in range(x.size):
        product += x[d] * y[d]
    return product


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _value_products(value: Any, row: Any, weight: Any, arriving: Any) -> Any:
    through_norm, direct = np.float32(0), np.float32(0)
    for d in range(value.size):
        through_norm += row[d] * weight[d] * value[d]
        direct += arriving[d] * value[d]
    return through_norm, direct


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _set_product(x: Any, y: Any, factor: Any, out: Any) -> None:
    for d in range(x.size):
        out[d] = x[d] * y[d] * factor


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _add_product(x: Any, y: Any, factor: Any, out: Any) -> None:
    for d in range(x.size):
        out[d] += x[d] * y[d] * factor


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _add(x: Any, out: Any) -> None:
    for d in range(x.size):
        out[d] += x[d]


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _add_value_gradient(
    value: Any, along: Any, row: Any, weight: Any, scale: Any, arriving: Any, gate: Any, out: Any
) -> None:
    for d in range(value.size):
        out[d] += row[d] * weight[d] * scale - value[d] * along + arriving[d] * gate


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _set_key_gradient(other: Any, weight: Any, factor: Any, own: Any, along: Any, out: Any) -> None:
    for d in range(other.size):
        out[d] = other[d] * weight[d] * factor - own[d] * along


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _set_silu_and_gated(x: Any, value: Any, gate: Any, out: Any) -> None:
    for d in range(x.size):
        out[d] = x[d] * _sigmoid(x[d]) + value[d] * gate


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _set_silu_gradient(x: Any, gradient: Any, out: Any) -> None:
    for d in range(x.size):
        sigmoid = _sigmoid(x[d])
        out[d] = gradient[d] * (sigmoid + x[d] * sigmoid * (_ONE - sigmoid))


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _convolve(ring: Any, taps: Any, at: Any, step: Any, out: Any) -> None:
    """Add up the taps ``[K, D]`` times the rows of a ring, from row `at` in steps of `step`."""
    size, last = ring.shape[0], taps.shape[0] - 1
    _set_product(ring[at % size], taps[last], _ONE, out)
    for back in range(1, last + 1):
        _add_product(ring[(at + back * step) % size], taps[last - back], _ONE, out)


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _enter(sources: Any, rules: Any, b: Any, t: Any, m: Any, row: Any, state: Any) -> Any:
    """Compute the convolution's input at a token into `row` ``[D]``, and the token's state.

    Tokens before the sequence are those of the window, or zero; those after it have no row.

    Returns:
        Whether the token has no result: it is masked, or outside the sequence.
    """
    value, keys, streams, agreement_weight, norm_weight, _, window, keep = sources
    eps, norm_eps, _ = rules
    held, width = window.shape[1], norm_weight.shape[1]
    if t < 0:
        if t + held >= 0:
            row[:] = window[b, t + held, m]
        else:
            row[:] = 0
        return True
    if t >= value.shape[1]:
        return True
    closed = keep.size > 0 and keep[b, t] == 0
    squares = _products(keys[b, t, m], streams[b, t, m], agreement_weight[m])
    key_rstd = 1 / math.sqrt(squares[0] / width + eps)
    stream_rstd = 1 / math.sqrt(squares[1] / width + eps)
    agreement = key_rstd * stream_rstd * squares[2] / math.sqrt(width)
    root = math.sqrt(max(abs(agreement), 1e-6))
    if agreement < 0:
        root = -root
    elif agreement == 0:
        root = 0.0
    gate = 0.0 if closed else 1 / (1 + math.exp(-root))
    square = _dot(value[b, t], value[b, t])
    rstd = 1 / math.sqrt(gate * gate * square / width + norm_eps)
    _set_product(value[b, t], norm_weight[m], np.float32(gate * rstd), row)
    state[_KEY_RSTD] = key_rstd
    state[_STREAM_RSTD] = stream_rstd
    state[_AGREEMENT] = agreement
    state[_GATE] = gate
    state[_SQUARE] = square
    state[_RSTD] = rstd
    return closed


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _leave(
    sources: Any, incoming: Any, gradients: Any, weights: Any, at: Any, row: Any, state: Any
) -> None:
    """Pass the gradients of a token's result, gate and convolution's input `row` to its inputs."""
    value, keys, streams, agreement_weight, norm_weight = sources[:5]
    b, t, m = at
    arriving, gate_gradient = incoming
    width = norm_weight.shape[1]
    gate, square, rstd, agreement = state[_GATE], state[_SQUARE], state[_RSTD], state[_AGREEMENT]
    own, into, weight = value[b, t], gradients[0][b, t], norm_weight[m]
    through_norm, direct = _value_products(own, row, weight, arriving)
    scale = gate * rstd
    along = scale * through_norm / width
    gate_gradient += rstd * (through_norm - along * scale * square) + direct
    _add_product(row, own, np.float32(scale), weights[1][m])
    if m == 0:
        into[:] = 0
    along *= scale * scale
    _add_value_gradient(
        own, np.float32(along), row, weight, np.float32(scale), arriving, np.float32(gate), into
    )
    slope = 0.0
    if abs(agreement) >= 1e-6:
        root_gradient = gate_gradient * gate * (1 - gate)
        slope = root_gradient * 0.5 / math.sqrt(abs(agreement)) / math.sqrt(width)
    factor = np.float32(slope * state[_KEY_RSTD] * state[_STREAM_RSTD])
    along = slope * agreement / math.sqrt(width)
    key, stream, weight = keys[b, t, m], streams[b, t, m], agreement_weight[m]
    _add_product(key, stream, factor, weights[0][m])
    own_share = np.float32(along * state[_KEY_RSTD] ** 2)
    _set_key_gradient(stream, weight, factor, key, own_share, gradients[1][b, t, m])
    if gradients[2].size > 0:
        own_share = np.float32(along * state[_STREAM_RSTD] ** 2)
        _set_key_gradient(key, weight, factor, stream, own_share, gradients[2][b, t, m])


@compiled(**_OPTIONS)
def read(sources: Any, rules: Any, span: Any, results: Any) -> None:
    """Compute the results of a span of tokens.

    Args:
        sources: Value ``[B, T, D]``, keys and streams ``[B, T, M, D]``, product of their norms'
            weights and weight of the norm before the convolution ``[M, D]``, taps ``[M, K, D]``,
            window ``[B, W, M, D]`` and a mask ``[B, T]`` (or empty) that is 0 at masked tokens.
        rules: Epsilon of the norms of keys and streams, that of the norm before the convolution,
            and the dilation.
        span: Index of the sequence, first token, and the one after the last.
        results: To write to: result ``[B, T, M, D]``, gates ``[B, T, M]`` and the next window
            ``[B, R - 1, M, D]``.
    """
    value, taps = sources[0], sources[5]
    out, gates, next_window = results
    b, first, last = span
    n_streams, n_taps, width = taps.shape
    dilation, length = rules[2], value.shape[1]
    reach = (n_taps - 1) * dilation
    size = reach + 1
    ring = np.empty((size, width), np.float32)
    convolved = np.empty(width, np.float32)
    state = np.zeros(6)
    for m in range(n_streams):
        # The first tokens only fill the ring.
        for t in range(first - reach, last):
            row = ring[(t + size) % size]
            closed = _enter(sources, rules, b, t, m, row, state)
            if t >= length - reach and (t >= first or t < 0):
                next_window[b, t - length + reach, m] = row
            if t < first:
                continue
            gates[b, t, m] = state[_GATE]
            if closed:
                out[b, t, m] = 0
            else:
                _convolve(ring, taps[m], t + reach * size, -dilation, convolved)
                gate = np.float32(state[_GATE])
                _set_silu_and_gated(convolved, value[b, t], gate, out[b, t, m])


@compiled(**_OPTIONS)
def read_backward(
    sources: Any, rules: Any, span: Any, incoming: Any, gradients: Any, weights: Any
) -> None:
    """Compute the gradients of a span of tokens.

    Args:
        sources: See `read`.
        rules: See `read`.
        span: See `read`.
        incoming: Gradients of the results of `read`; those of gates and window may be empty.
        gradients: To write to: gradients of value, keys, streams and window. Those of streams and
            window may be empty; the first span of a sequence writes the window's last R - 1 tokens.
        weights: To add this span's part to: gradients of the product of the norms' weights and of
            the norm before the convolution ``[M, D]``, and of the taps ``[M, K, D]``.
    """
    value, taps, window, keep = sources[0], sources[5], sources[6], sources[7]
    out_gradient, gates_gradient, next_window_gradient = incoming
    b, first, last = span
    n_streams, n_taps, width = taps.shape
    dilation, length, held = rules[2], value.shape[1], window.shape[1]
    reach = (n_taps - 1) * dilation
    size = reach + 1
    ring = np.empty((size, width), np.float32)
    conv_gradients = np.empty((size, width), np.float32)
    states = np.zeros((size, 6))
    scratch = np.empty(width, np.float32)
    zero = np.zeros(width, np.float32)
    # The first span also gives the gradients of the window before it.
    first_out = -reach if first == 0 and gradients[3].size > 0 else first
    for m in range(n_streams):
        conv_gradients[:] = 0
        for t in range(first - reach, last + reach):
            slot = (t + size) % size
            closed = _enter(sources, rules, b, t, m, ring[slot], states[slot])
            if t < first:
                continue
            conv_gradient = conv_gradients[slot]
            if closed:
                conv_gradient[:] = 0
            else:
                _convolve(ring, taps[m], t + reach * size, -dilation, scratch)
                _set_silu_gradient(scratch, out_gradient[b, t, m], conv_gradient)
                if t < last:
                    for tap in range(n_taps):
                        reached = (t + size * size - (n_taps - 1 - tap) * dilation) % size
                        _add_product(ring[reached], conv_gradient, _ONE, weights[2][m, tap])
            # The token of which every gradient is known now.
            u = t - reach
            if u < first_out:
                continue
            _convolve(conv_gradients, taps[m], u + size, dilation, scratch)
            if next_window_gradient.size > 0 and u >= length - reach:
                _add(next_window_gradient[b, u - length + reach, m], scratch)
            if u >= 0:
                arriving = zero if keep.size > 0 and keep[b, u] == 0 else out_gradient[b, u, m]
                to_gate = gates_gradient[b, u, m] if gates_gradient.size > 0 else 0.0
                incoming_here, at = (arriving, to_gate), (b, u, m)
                _leave(sources, incoming_here, gradients, weights, at, scratch, states[u % size])
            elif u + held >= 0:
                gradients[3][b, u + held, m] = scratch

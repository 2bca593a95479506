"""`nearest_values`: the best that an encoding could have stored, given the scales that rows have.

It follows from the decoder alone: a bit that changes one value of a block is of that value's code,
all others are of scales. Every code of every value is tried.

Shapes: n rows, B blocks, V values of a block, S bytes of a block in all its tensors, k code bits.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from engram.errors import CorruptFileError, LayoutError
from engram.storage.row_encodings.known_encodings import row_encoding
from engram.storage.row_encodings.rounding import round_rows
from engram.storage.row_encodings.row_encoding import RowEncoding

_TRIED = 8  # blocks
# Bytes that are NaN in no encoding, nor become NaN when one bit of them changes.
_LEAST_BYTE, _BYTES_STOP = 64, 95
_MOST_BITS = 8
# Floats are rounded instead.
_FLOATS = ("F32", "F16", "BF16")


def nearest_values(
    name: str, stored: Sequence[NDArray[np.uint8]], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find, for each value of rows, the nearest one that could stand in its place.

    Args:
        name: The encoding.
        stored: Bytes of the rows ``[n, bytes]``, one array for each of its tensors.
        wanted: Values ``[n, width]``.

    Returns:
        Values ``[n, width]``.

    Raises:
        LayoutError: The encoding is unknown, or has no code for each value.
    """
    if name in _FLOATS:
        with np.errstate(over="ignore"):
            again = round_rows(name, wanted.astype(np.float32))
        return row_encoding(name).decode(again).astype(np.float64)
    encoding = row_encoding(name)
    values = encoding.block_values
    parts = [
        rows.reshape(-1, fields.itemsize)
        for rows, fields in zip(stored, encoding.parts, strict=True)
    ]
    bits = np.unpackbits(np.concatenate(parts, axis=1), axis=1, bitorder="little")
    places = _code_bits(name)
    goal = wanted.reshape(-1, values)
    best, least = np.zeros(goal.shape), np.full(goal.shape, np.inf)
    for code in range(2 ** places.shape[1]):
        bits[:, places] = code >> np.arange(places.shape[1]) & 1  # [B, V, k]
        try:
            found = _decoded(encoding, np.packbits(bits, axis=1, bitorder="little"))
        except CorruptFileError:  # a code that stands for no number
            continue
        error = np.abs(found - goal)
        nearer = error < least
        best, least = np.where(nearer, found, best), np.where(nearer, error, least)
    return best.reshape(wanted.shape)


@cache
def _code_bits(name: str) -> NDArray[np.int64]:
    """Bits of a block that make up the code of each of its values ``[V, k]``."""
    encoding = row_encoding(name)
    generator = np.random.default_rng(0)
    size = (_TRIED, encoding.block_bytes)
    blocks = generator.integers(_LEAST_BYTE, _BYTES_STOP, size, dtype=np.uint8)
    before = _decoded(encoding, blocks)
    changed = np.empty((8 * encoding.block_bytes, encoding.block_values), bool)
    for bit in range(len(changed)):
        other = blocks.copy()
        other[:, bit // 8] ^= np.uint8(1 << bit % 8)
        changed[bit] = (_decoded(encoding, other) != before).any(axis=0)
    alone = changed & (changed.sum(axis=1, keepdims=True) == 1)
    counts = alone.sum(axis=0)
    count = int(counts[0])
    if (counts != count).any() or not 0 < count <= _MOST_BITS:
        raise LayoutError(f"{name} has no code of at most {_MOST_BITS} bits for each value.")
    return np.stack([np.flatnonzero(of_value) for of_value in alone.T])


def _decoded(encoding: RowEncoding, blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Decode blocks ``[B, S]`` to values ``[B, V]``."""
    ends = np.cumsum([fields.itemsize for fields in encoding.parts])[:-1]
    return encoding.decode(*np.split(blocks, ends, axis=1)).astype(np.float64)

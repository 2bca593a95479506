"""The inputs of a hash, checked and brought into the form that the compiled kernel reads."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.reference import check_ids
from engram.errors import InputError

# Dtypes of token ids that the kernel reads as they are.
KERNEL_DTYPES = frozenset(np.dtype(name) for name in ("i8", "i4", "u2", "u4"))
# The kernel cuts a mix into the bits below this one and those above.
LOW_BITS = 50
# Numbers that the kernel needs for a head.
KINDS = 5
_LINE_BYTES = 64
# Of arrays that numpy allocates, and enough for stores past the caches.
ALIGNED_BYTES = 16
# Flags of a position: a document starts there; it is masked.
START = 1
MASKED = 2
# End-of-document token of memories without one.
NO_END = -(2**63)


def fits_doubles(addresses: Addresses) -> bool:
    """Whether the kernel may reduce mixes in doubles: odd sizes of 3..2^35, see `remainders`."""
    return all(
        min(layer.heads, default=3) > 2
        and all(size % 2 for size in layer.heads)
        and max(layer.heads, default=3) < 2**35
        and layer.hash_rows < 2**51
        for layer in addresses.layers
    )


def multipliers_width(n_orders: int) -> int:
    """Return the room for a layer's multipliers: whole vectors, so that what follows is aligned."""
    return (n_orders + 8) // 8 * 8


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return a new array that starts at a cache line, so that no vector of it is in two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + _LINE_BYTES, np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + size].view(dtype).reshape(shape)


def pack(addresses: Addresses, offsets: bool) -> NDArray[np.uint64]:
    """Pack the constants in the form that the kernel reads.

    Args:
        addresses: The memory's constants.
        offsets: Whether ids count from the start of the layer's table instead of the head's part.

    Returns:
        uint64 ``[L, multipliers_width + KINDS * C]``: a layer's multipliers, then per order the
        bits of five doubles for each head, kind by kind: the shift, the remainder of
        ``2^LOW_BITS``, the inverse, the prime, and the number to add last. Unless `fits_doubles`,
        they are the prime, the offset that is added to ids, and three zeros, as integers.
    """
    heads, in_doubles = addresses.n_heads, fits_doubles(addresses)
    origin = multipliers_width(addresses.n_orders)
    width = origin + KINDS * addresses.n_columns
    packed = aligned((len(addresses.layers), width), np.uint64)
    packed[:] = 0
    for row, layer in zip(packed, addresses.layers, strict=True):
        row[: len(layer.multipliers)] = layer.multipliers
        at = origin
        for order, primes in enumerate(layer.primes):
            firsts = layer.offsets[order * heads : (order + 1) * heads] if offsets else [0] * heads
            kinds = row[at : at + KINDS * heads].reshape(KINDS, heads)
            at += KINDS * heads
            if not in_doubles:
                kinds[0], kinds[1] = primes, firsts
                continue
            halves = [(prime - 1) // 2 for prime in primes]
            kinds.view(np.float64)[:] = (
                [(-half - 2**63) % prime for half, prime in zip(halves, primes, strict=True)],
                [2**LOW_BITS % prime for prime in primes],
                [1 / prime for prime in primes],
                primes,
                [2**52 + half + first for half, first in zip(halves, firsts, strict=True)],
            )
    return packed


def check_out(
    addresses: Addresses, out: NDArray[Any], shape: tuple[int, ...], offsets: bool
) -> None:
    """Raise an error for an output that cannot be filled.

    Args:
        addresses: The memory's constants.
        out: The output.
        shape: Shape of the token ids.
        offsets: Whether ids count from the start of the layer's table.

    Raises:
        InputError: It has the wrong shape or dtype, or its dtype is too narrow.
    """
    expected = (*shape, len(addresses.layers), addresses.n_columns)
    is_array = isinstance(out, np.ndarray) and out.flags.c_contiguous and out.flags.writeable
    if not is_array or out.shape != expected or out.dtype not in (np.int64, np.int32):
        what = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out)
        raise InputError(
            f"out must be a writable, contiguous array, int64 or int32, of shape {list(expected)}, "
            f"got {what}.",
            expected=list(expected),
        )
    tables = (layer.hash_rows if offsets else max(layer.heads) for layer in addresses.layers)
    if out.dtype == np.int32 and (rows := max(tables)) > 2**31:
        raise InputError(f"out is int32, but ids go up to {rows - 1}.", "Use int64.", rows=rows)


def whole_numbers(values: Any, what: str, mask: str) -> NDArray[Any]:
    """Return lists or arrays of whole numbers as an array.

    Args:
        values: The numbers.
        what: What they are: token ids may not be bool, masks may.
        mask: The argument that masks padded positions.

    Raises:
        InputError: They are not whole numbers, or rows of different lengths.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{what} are rows of different lengths.", f"Pad them and pass {mask}=."
        ) from None
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind not in "biu" or (array.dtype.kind == "b" and what == "Token ids"):
        raise InputError(f"{what} must be whole numbers, got {array.dtype}.")
    return array


def token_array(addresses: Addresses, ids: ArrayLike, ndim: int) -> NDArray[Any]:
    """Return token ids as a contiguous array of a dtype that the kernel reads.

    Raises:
        InputError: They are not whole numbers, or not an array of `ndim` dimensions.
    """
    array = whole_numbers(ids, "Token ids", "keep")
    if array.ndim != ndim:
        letters = "[B, T]" if ndim == 2 else "[n]"
        raise InputError(
            f"Token ids must be {letters}, got {list(array.shape)}.", shape=list(array.shape)
        )
    if array.dtype not in KERNEL_DTYPES:
        check_ids(addresses, array)  # uint64 ids may not fit
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)


def wrong_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> InputError:
    """Return the error for an array that does not fit the token ids."""
    return InputError(
        f"{name} must be {list(shape)} for these token ids, got {list(array.shape)}.",
        expected=list(shape),
    )


def position_flags(
    keep: ArrayLike | None, starts: ArrayLike | None, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Pack both masks ``[B, T]`` into one array of flags for the kernel.

    Raises:
        InputError: A mask has the wrong shape.
    """
    flags = np.zeros(shape, np.uint8)
    for name, mask, flag in (("starts", starts, START), ("keep", keep, MASKED)):
        if mask is None:
            continue
        marked = np.asarray(mask)
        if marked.shape != shape:
            raise wrong_shape(name, marked, shape)
        flags[marked != 0 if flag == START else marked == 0] |= flag
    return flags

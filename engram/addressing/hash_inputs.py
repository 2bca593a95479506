"""The inputs of a hash, checked and brought into the form that the compiled kernel reads."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.reference import check_ids
from engram.errors import InputError

# Dtypes of token ids that the kernel reads as they are.
KERNEL_DTYPES = frozenset(np.dtype(name) for name in ("i8", "i4", "u2", "u4"))
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
            bars = [2**64 // prime for prime in primes]
            row += [*primes, *(bar % 2**32 for bar in bars), *(bar >> 32 for bar in bars)]
            firsts = layer.offsets[order * heads : (order + 1) * heads]
            row += firsts if offsets else [0] * heads
        rows.append(row)
    return np.array(rows, dtype=np.uint64)


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

"""Compiled passes over rows of a table, which fetch the rows that come next into the caches.

Rows of a large table lie on pages of their own: to find one takes longer than to change it, unless
the processor is told in time. Imported only when used.
"""

from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from engram.storage.machine_code import compiled, prefetch

# Rows between the one that is fetched and the one that is changed, and values of a cache line.
_AHEAD = 32
_LINE = 16


@intrinsic  # type: ignore[untyped-decorator]
def _fetch(context: Any, values: Any, row: Any, column: Any) -> Any:
    """Have a value ``[row, column]`` of a C-contiguous array fetched, to be written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(array.shape, 1)
        place = builder.add(builder.mul(arguments[1], width), arguments[2])
        prefetch(builder, builder.gep(array.data, [place]))
        return context.get_dummy_value()

    return types.void(values, types.intp, types.intp), generate


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _fetch_row(values: Any, ids: Any, i: Any, end: Any) -> None:
    """Fetch the row of the i-th id if there is one before the end."""
    if i < end:
        for column in range(0, values.shape[1], _LINE):
            _fetch(values, ids[i], column)


@compiled(nogil=True)
def read_rows(values: Any, ids: Any, found: Any, begin: Any, end: Any) -> None:
    """Copy some rows.

    Args:
        values: The rows ``[count, W]``, float32, contiguous.
        ids: Numbers of rows, int64 ``[n]``.
        found: To write to ``[n, W]``.
        begin: The first to copy.
        end: The one after the last.
    """
    for i in range(begin - _AHEAD, end):
        _fetch_row(values, ids, i + _AHEAD, end)
        if i >= begin:
            row = ids[i]
            for column in range(values.shape[1]):
                found[i, column] = values[row, column]


@compiled(nogil=True)
def write_rows(values: Any, ids: Any, new: Any, begin: Any, end: Any) -> None:
    """Replace some rows by those of `new` ``[n, W]``; see `read_rows`."""
    for i in range(begin - _AHEAD, end):
        _fetch_row(values, ids, i + _AHEAD, end)
        if i >= begin:
            row = ids[i]
            for column in range(values.shape[1]):
                values[row, column] = new[i, column]


@compiled(nogil=True)
def subtract_rows(values: Any, ids: Any, change: Any, begin: Any, end: Any) -> None:
    """Subtract the rows of `change` ``[n, W]`` from some rows; see `read_rows`."""
    for i in range(begin - _AHEAD, end):
        _fetch_row(values, ids, i + _AHEAD, end)
        if i >= begin:
            row = ids[i]
            for column in range(values.shape[1]):
                values[row, column] -= change[i, column]

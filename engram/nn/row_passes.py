"""Reads, writes and changes rows of a tensor on a CPU in compiled passes that fetch rows ahead."""

import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from engram.errors import EngramWarning
from engram.threads import kept_threads

# Fewer rows than this take less time than loading the passes is worth.
MIN_ROWS = 2**11
# At 11,000 rows of 64 floats a second thread saves nothing.
_ROWS_PER_THREAD = 2**15


def row_passes(values: Tensor, ids: Tensor, others: Tensor | None = None) -> ModuleType | None:
    """Return `engram.nn.row_kernels` where it serves these rows, else None.

    Args:
        values: The rows ``[count, W]``.
        ids: Numbers of rows ``[n]``.
        others: What is to be written or subtracted ``[n, W]``.

    Returns:
        None for few rows, other dtypes than float32, other devices than a CPU, rows that are not
        contiguous, other shapes, and where numba does not work.
    """
    if len(ids) < MIN_ROWS or not _is_plain(values) or not values.is_contiguous():
        return None
    shape = (len(ids), values.shape[1])
    if others is not None and (not _is_plain(others) or others.shape != shape):
        return None
    return _kernels()


def _is_plain(values: Tensor) -> bool:
    """Whether these are numbers of float32 in the memory of this process."""
    is_plain = type(values) in (Tensor, torch.nn.Parameter) and values.layout == torch.strided
    return is_plain and values.device.type == "cpu" and values.dtype == torch.float32


def over_rows(work: Callable[..., None], values: Tensor, ids: Tensor, others: Tensor) -> None:
    """Do a pass over rows, in as many threads as torch uses.

    Args:
        work: One of the passes of `engram.nn.row_kernels`.
        values: The rows ``[count, W]``.
        ids: Numbers of rows, distinct, int64 ``[n]``.
        others: What is read, written or subtracted ``[n, W]``.

    Raises:
        IndexError: A row is not there.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(values):
        raise IndexError(f"row ids must be in 0..{len(values) - 1}")
    arrays = [it.detach().contiguous().numpy() for it in (values, ids, others)]
    # Torch's threads may hold the cores for a while: others pay for many rows only.
    threads = max(1, min(torch.get_num_threads(), len(ids) // _ROWS_PER_THREAD))
    bounds = [len(ids) * part // threads for part in range(threads + 1)]
    pool = kept_threads("engram-rows", torch.get_num_threads())
    waiting = [pool.submit(work, *arrays, begin, end) for begin, end in pairwise(bounds[1:])]
    work(*arrays, *bounds[:2])
    for part in waiting:
        part.result()


def change_rows(work: Callable[..., None], values: Tensor, ids: Tensor, others: Tensor) -> None:
    """Do a pass that changes rows, and have torch count a change; see `over_rows`."""
    over_rows(work, values, ids, others)
    values[:0].zero_()


@cache
def _kernels() -> ModuleType | None:
    """Return the compiled passes, which are tried on a row; warns where they do not work."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return None
        from engram.nn import row_kernels

        row, ids = torch.zeros(1, 1).numpy(), torch.zeros(1, dtype=torch.int64).numpy()
        passes: list[Any] = [row_kernels.read_rows, row_kernels.write_rows]
        for work in (*passes, row_kernels.subtract_rows):
            work(row, ids, row.copy(), 0, 1)
    except Exception as error:  # numba can fail in many ways
        warnings.warn(
            f"Training rows without compiled passes, which is slower: "
            f"{type(error).__name__}: {error}",
            EngramWarning,
            stacklevel=5,
        )
        return None
    return row_kernels

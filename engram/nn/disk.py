"""`DiskEmbedding`: a table whose rows are read from its file, without loading it.

Shapes: n row ids, E width of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engram.errors import InputError
from engram.nn.compat import records_a_graph
from engram.nn.file_table import FileEmbedding
from engram.nn.frozen import FrozenTable
from engram.nn.row_cache import RowCache
from engram.storage.row_file import RowFile

# Fewer rows than this are prefetched directly: starting a thread would take longer.
_ROWS_FOR_A_THREAD = 512


class DiskEmbedding(FrozenTable):
    """An embedding whose table stays in a file, such as a safetensors shard.

    Rows are gathered on the host, cast to the module's dtype and copied to the device of the ids;
    `to()` changes the dtype of the results, not the file. The table is not a parameter: it is not
    in the state dict, and cannot be trained (`refuse_gradients`).

    Copies share the open file and the cache; pickling writes the file's path, not its rows.

    Args:
        path: The file.
        start_byte: Where the table starts in it.
        num_embeddings: Rows of the table.
        embedding_dim: Width E of a row.
        dtype: dtype of the stored rows: float32, bfloat16, float16 or float64.
        cache_rows: Rows kept in memory, preferably those that are read repeatedly; 0 leaves
            caching to the kernel, which is best for tables that fit into memory.

    Attributes:
        file: The file with the table.
        stored: The row files of the table and their dtypes, by the names of its tensors.
        sources: The row files that a row is read from, or caches of them.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: The file ends before the table does.
        InputError: Rows of that dtype cannot be read, or a size is not valid.
    """

    way_out = 'Load with tables="ram" to train it'
    stored_dtypes: ClassVar[tuple[torch.dtype, ...]] = (
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float64,
    )

    def __init__(
        self,
        path: str | Path,
        start_byte: int,
        num_embeddings: int,
        embedding_dim: int,
        dtype: torch.dtype = torch.float32,
        *,
        cache_rows: int = 0,
    ) -> None:
        super().__init__()
        if dtype not in self.stored_dtypes:
            raise InputError(
                f"A table of {dtype} cannot be read from disk.",
                f"Rows may be {', '.join(str(item) for item in self.stored_dtypes)}.",
                dtype=str(dtype),
            )
        if cache_rows < 0:
            raise InputError(
                f"cache_rows must be >= 0, got {cache_rows}.",
                "Use 0 for no cache, or the number of rows to keep in memory.",
                cache_rows=cache_rows,
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.stored_dtype = self.dtype = dtype
        self.file = RowFile(path, start_byte, num_embeddings, embedding_dim * dtype.itemsize)
        self.stored = {"weight": (self.file, dtype)}
        self.source = row_source(self.file, cache_rows)
        self.sources = [self.source]
        self._register()

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows.

        Args:
            input: Row ids, int of any shape, on any device.

        Returns:
            Rows ``[..., E]`` of the module's dtype, on the device of the ids.

        Raises:
            IndexError: An id is outside of the table.
            CorruptFileError: The file was cut short since it was opened.
        """
        if not records_a_graph():
            return self.read(input)
        return cast(Tensor, _rows_on_disk(input, self._handle, self.embedding_dim, self.dtype))

    def read(self, input: Tensor) -> Tensor:
        """Body of `forward`, which `torch.compile` does not trace."""
        if input.is_cpu:
            return self._rows(input, input.device)
        # Copies to a device take most of the time, so each distinct row is copied once.
        distinct, inverse = torch.unique(input, return_inverse=True)
        return F.embedding(inverse, self._rows(distinct.cpu(), input.device))

    def describe(self) -> str:
        """Return the start of a sentence that identifies this table."""
        return f"The table in {self.file.path} is read from disk"

    def extra_repr(self) -> str:
        """Describe the table for `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, path={str(self.file.path)!r}"

    def _rows(self, host_ids: Tensor, device: torch.device) -> Tensor:
        """Return rows ``[..., E]`` of the module's dtype on a device."""
        rows = self._read(self.source, host_ids, device, self.stored_dtype)
        return rows if self.dtype == self.stored_dtype else rows.to(self.dtype)

    def _read(
        self,
        source: RowFile | RowCache,
        host_ids: Tensor,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """Read rows as they are stored and copy them to a device."""
        # Few torch calls: a dozen take as long as a warm look-up of thousands of rows.
        ids = host_ids.numpy().astype(np.int64, copy=False)
        shape = (*ids.shape, source.row_bytes // dtype.itemsize)
        if device.type == "cuda":
            # Copies from pinned memory are asynchronous.
            rows = torch.empty(shape, dtype=dtype, pin_memory=True)
            values = rows.view(torch.uint8).numpy()
        else:
            values = np.empty(shape, dtype=f"i{dtype.itemsize}")
            rows = torch.from_numpy(values).view(dtype)
        source.read(ids.reshape(-1), values.view(np.uint8).reshape(-1, source.row_bytes))
        return rows if device.type == "cpu" else rows.to(device, non_blocking=rows.is_pinned())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiskEmbedding:
        """Follow changes of dtype."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return cast(DiskEmbedding, super()._apply(fn, recurse))

    def _register(self) -> None:
        self._handle = next(_handles)
        _tables[self._handle] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()


def row_source(file: RowFile, cache_rows: int) -> RowFile | RowCache:
    """Return a cache of `rows` rows of a file, or the file itself if there are no rows to keep."""
    lines = min(cache_rows, file.rows)
    return RowCache(file, lines) if lines else file


# Custom operators take numbers, not objects.
_handles = count()
_tables: WeakValueDictionary[int, DiskEmbedding] = WeakValueDictionary()


@torch.library.custom_op("engram::rows_on_disk", mutates_args=())
def _rows_on_disk(ids: Tensor, handle: int, width: int, dtype: torch.dtype) -> Tensor:
    return _tables[handle].read(ids)


@_rows_on_disk.register_fake
def _(ids: Tensor, handle: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((*ids.shape, width), dtype=dtype, device=ids.device)


def prefetch(wanted: Iterable[tuple[DiskEmbedding | FileEmbedding, Tensor]]) -> None:
    """Have the kernel start reading rows that will be looked up soon; return at once.

    Args:
        wanted: Tables, each with valid row ids, in the order in which they are needed.
    """
    plan = [
        (source, rows)
        for table, ids in wanted
        for rows in [ids.reshape(-1).to("cpu", torch.int64).numpy()]
        for source in table.sources
    ]

    def ask() -> None:
        for source, ids in plan:
            source.ask(ids)

    if sum(len(ids) for _, ids in plan) < _ROWS_FOR_A_THREAD:
        ask()
    else:
        threading.Thread(target=ask, name="engram-prefetch", daemon=True).start()

"""`FileEmbedding`: a table in a file that is trained there, and may be larger than memory.

Shapes: n distinct row ids, E width of a row, W values of a row of a table or of a column.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.errors import InputError, LayoutError, MismatchError
from engram.nn.compat import version_of
from engram.nn.rows import Rows, gradient_of_look_ups
from engram.nn.stored_dtypes import TAGS, TORCH_DTYPES
from engram.storage.journaled_rows import Extent, JournaledRows
from engram.storage.row_file import RowFile
from engram.storage.row_journal import Journal
from engram.storage.safetensors_headers import TensorInfo, read_header
from engram.storage.table_files import make_zeros
from engram.threads import kept_threads

_DTYPES = {tag: TORCH_DTYPES[tag] for tag in ("F32", "BF16", "F16", "F64")}


class FileRows(Rows):
    """Rows of a table in a safetensors file, or of a column of state in another one beside it.

    Args:
        journal: Journal of the folder that the file is in.
        table: The tensor, of float32, bfloat16, float16 or float64.
        first_row: The first of these rows; not 0 where processes share the table.
        count: Number of these rows; None for all from the first one on.

    Attributes:
        file: The rows as bytes.
        columns: Columns of state beside them that are open, by name.

    Raises:
        LayoutError: The table has another dtype, or is not a matrix.
        InputError: The file is not in the journal's folder.
        CorruptFileError: The file ends before the table does.
        DoesNotFitError: The disk is full.
    """

    def __init__(
        self,
        journal: Journal,
        table: TensorInfo,
        first_row: int = 0,
        count: int | None = None,
    ) -> None:
        dtype = _DTYPES.get(table.dtype)
        if dtype is None or len(table.shape) != 2:
            raise LayoutError(
                f"A table of {table.dtype} {list(table.shape)} cannot be trained in its file.",
                f"It must be a matrix of {', '.join(_DTYPES)}: engram convert --dtype bfloat16",
                path=str(table.path),
                dtype=table.dtype,
            )
        self.journal, self.table, self.dtype = journal, table, dtype
        self.all_rows, self.width = table.shape
        self.first_row = first_row
        self.count = self.all_rows - first_row if count is None else count
        row_bytes = self.width * dtype.itemsize
        extent = Extent(table.path, table.start, first_row, self.count, row_bytes)
        self.file: JournaledRows = journal.rows(table.path.stem, extent)
        self.columns: dict[str, FileRows] = {}
        self._asked: Future[None] | None = None

    def read(self, ids: Tensor) -> Tensor:
        """Return rows ``[n, W]`` on the device of the ids."""
        if self._asked is not None:
            # Reading what is not asked for yet would ask for it a second time.
            wait([self._asked])
            self._asked = None
        home = ids.device
        host_ids = ids.to("cpu", torch.int64).numpy()
        if home.type == "cuda":
            # Copies from pinned memory are asynchronous.
            rows = torch.empty((len(ids), self.width), dtype=self.dtype, pin_memory=True)
        else:
            rows = torch.empty((len(ids), self.width), dtype=self.dtype)
        self.file.read(host_ids, rows.view(torch.uint8).numpy())
        return rows.to(home, non_blocking=True) if rows.is_pinned() else rows.to(home)

    def write(self, ids: Tensor, values: Tensor) -> None:
        """Replace rows by others ``[n, W]``; they are permanent after the journal's next commit."""
        values = values.detach().to("cpu").contiguous()
        self.file.write(ids.to("cpu", torch.int64).numpy(), values.view(torch.uint8).numpy())

    def ask_for_state(self, ids: Tensor) -> None:
        """Have the kernel start reading all columns of rows ``[n]``, without waiting."""
        host_ids = ids.to("cpu", torch.int64).numpy()
        asker = kept_threads("engram-state", 1)
        for column in self.columns.values():
            column._asked = asker.submit(column.file.ask, host_ids)

    def column(self, name: str, width: int, dtype: torch.dtype) -> FileRows:
        """Open a column of state in a file beside the table's.

        It is made, of zeros, when it is not there. With one that is there its
        state goes on, as the table does.

        Raises:
            MismatchError: One of another shape or dtype is there.
        """
        path = self.table.path.with_name(f"{self.table.path.stem}.{name}.safetensors")
        shape = (self.all_rows, width)
        make_zeros(path, name, TAGS[dtype], shape)
        found = read_header(path).get(name)
        if found is None or found.shape != shape or found.dtype != TAGS[dtype]:
            there = "no such tensor" if found is None else f"{found.dtype} {list(found.shape)}"
            raise MismatchError(
                f"{path} must hold {name} of {TAGS[dtype]} {list(shape)}, got {there}.",
                "Train on with the optimiser that made it, or from a new copy of the table.",
                path=str(path),
            )
        if name not in self.columns:
            self.columns[name] = FileRows(self.journal, found, self.first_row, self.count)
        return self.columns[name]


class FileEmbedding(nn.Module):
    """An embedding whose table stays in a file, where an optimiser of rows trains it.

    Look-ups read the rows as they were last written; the file changes when the journal commits, see
    `Journal`. Gradients are always sparse.

    `weight` is a parameter over a mapping of the file: it is counted and has gradients, but its
    values are those of the last commit, and it must not be written to. It is not in state dicts;
    `to()` changes the dtype and device of the results, not the table. Copies and pickles would be
    of the same file, so they are refused.

    Args:
        rows: The rows.

    Attributes:
        num_embeddings: Rows of the table here.
        embedding_dim: Width E of a row.
        dtype: dtype of the rows that a look-up returns.
        sparse: True; gradients of the whole table may not fit into memory.
        rows: The rows, for optimisers.
        weight: See above ``[num_embeddings, E]``.
    """

    def __init__(self, rows: FileRows) -> None:
        super().__init__()
        _keep_out_of_graphs()
        self.rows, self.dtype, self.sparse = rows, rows.dtype, True
        self.num_embeddings, self.embedding_dim = rows.count, rows.width
        self.first_row = rows.first_row
        values = torch.from_numpy(rows.file.main.map_privately())
        self.weight = nn.Parameter(values.view(rows.dtype))

    @property
    def sources(self) -> list[JournaledRows]:
        """Files that look-ups read, for `engram.nn.disk.prefetch`."""
        return [self.rows.file]

    @property
    def stored(self) -> dict[str, tuple[RowFile, torch.dtype]]:
        """The row file and its dtype by the name of its tensor, for saving.

        Raises:
            InputError: Rows have been changed since the last commit.
        """
        changed = len(self.rows.file.dirty)
        if changed:
            raise InputError(
                f"{changed} rows of {self.path} have been changed since the last commit.",
                "Commit them before saving: journal.commit(...)",
                path=str(self.path),
                changed_rows=changed,
            )
        return {"weight": (self.rows.file.main, self.rows.dtype)}

    @property
    def path(self) -> Path:
        """The table's file."""
        return self.rows.table.path

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows.

        Args:
            input: Row ids, int of any shape, on any device.

        Returns:
            Rows ``[..., E]`` on the device of the ids.

        Raises:
            IndexError: An id is outside of the table.
            InputError: `weight` was written to.
        """
        if version_of(self.weight):
            raise InputError(
                f"The parameter over {self.path} was written to, which does not change the table.",
                "Write to embedding.rows, as engram.training.MemoryOptimizer does.",
                path=str(self.path),
            )
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        rows = cast(Tensor, _FileLookup.apply(self.weight, input, self.rows, learns))
        return rows.to(self.dtype)

    def describe(self) -> str:
        """Return the start of a sentence that identifies this table."""
        return f"The table in {self.path} is trained there"

    def extra_repr(self) -> str:
        """Describe the table for `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, path={str(self.path)!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FileEmbedding:
        """Follow changes of dtype."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Leave the table out: it may not fit into memory."""

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: Any
    ) -> None:
        """Load nothing; tables that are given are refused."""
        unexpected = lists[1]
        if f"{prefix}weight" in state_dict:
            unexpected.append(f"{prefix}weight")

    def __getstate__(self) -> Any:
        raise InputError(
            f"{self.describe()}: it cannot be copied or pickled, since copies would train it too.",
            "Save the model, and load it again.",
            path=str(self.path),
        )


@cache
def _keep_out_of_graphs() -> None:
    """Have torch.compile leave look-ups out; it is not imported before a table needs this."""
    FileEmbedding.forward = torch.compiler.disable(FileEmbedding.forward)  # type: ignore[method-assign]


class _FileLookup(torch.autograd.Function):
    """Rows of a table in a file, with gradients that flow back to its parameter."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, input: Tensor, rows: FileRows, learns: bool) -> Tensor:
        """Look up rows ``[..., E]``."""
        distinct, inverse = torch.unique(input, return_inverse=True)
        if learns:
            ctx.save_for_backward(input)
            ctx.shape, ctx.home = weight.shape, weight.device
            # A step will need the state of these rows: it is read while the model computes.
            rows.ask_for_state(distinct)
        return F.embedding(inverse, rows.read(distinct))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the table's gradient."""
        (ids,) = ctx.saved_tensors
        return gradient_of_look_ups(ids, grad, ctx.shape, ctx.home), None, None, None

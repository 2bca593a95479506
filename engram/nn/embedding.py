"""`MultiHeadEmbedding`: one table for all heads of a layer.

Shapes: B sequences, T tokens, C columns (orders x heads).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from engram.addressing.same_memory import check_constant
from engram.errors import LayoutError, MismatchError, UsageError
from engram.nn.compat import records_a_graph
from engram.nn.file_table import FileEmbedding
from engram.nn.frozen import FrozenTable
from engram.nn.offload import OffloadEmbedding
from engram.nn.sharded import ShardedEmbedding


class MultiHeadEmbedding(nn.Module):
    """One table with the rows of all heads, one head after the other.

    Gradients of the table are dense by default, which works with every optimiser, gradient
    clipping, DDP and FSDP, but costs time and memory for all rows, however few were read. With
    `sparse` they hold only the rows that were read, for `torch.optim.SparseAdam` and optimisers
    made for such tables. `embedding.sparse` may be changed at any time.

    Args:
        head_sizes: Rows of each head's part, in column order.
        width: Width of a row.
        stored_rows: Rows of the table where they are padded; the sum of `head_sizes` when None.
        sparse: Whether the table's gradients are sparse.
        offload: Whether to keep the table in host memory, see `OffloadEmbedding`.
        cache_lines: Rows of an offloaded table that are cached on the module's device.
        table: A table in a file, or a quantised one, to use instead of making one in memory.
        device: Device of the table and offsets.
        dtype: dtype of the table.

    Raises:
        LayoutError: There are no heads, or fewer stored rows than the heads need.
        MismatchError: The given table has another shape.
    """

    embedding: nn.Embedding | FrozenTable | FileEmbedding | ShardedEmbedding
    offsets: Tensor

    def __init__(
        self,
        head_sizes: Sequence[int],
        width: int,
        *,
        stored_rows: int | None = None,
        sparse: bool = False,
        offload: bool = False,
        cache_lines: int = 0,
        table: FrozenTable | FileEmbedding | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.head_sizes = tuple(int(size) for size in head_sizes)
        hash_rows = sum(self.head_sizes)
        rows = hash_rows if stored_rows is None else stored_rows
        if not self.head_sizes or min(self.head_sizes) < 1 or rows < hash_rows:
            raise LayoutError(
                f"Heads must have at least 1 row each, and fit into {rows} stored rows, got "
                f"{list(self.head_sizes)}.",
                "Give heads of at least one row, and at least as many stored rows as their sum.",
                head_sizes=list(self.head_sizes),
                stored_rows=rows,
            )
        if table is not None:
            shape = (table.num_embeddings, table.embedding_dim)
            if shape != (rows, width):
                raise MismatchError(
                    f"{table.describe()} and has {shape[0]} rows of {shape[1]}; the memory needs "
                    f"{rows} of {width}.",
                    "Use the table that was made for this config.",
                    stored=list(shape),
                    expected=[rows, width],
                )
            self.embedding = table
        elif offload:
            self.embedding = OffloadEmbedding(
                rows, width, cache_lines, sparse=sparse, device=device, dtype=dtype
            )
        else:
            self.embedding = nn.Embedding(rows, width, sparse=sparse, device=device, dtype=dtype)
        self._bounds: tuple[Tensor, Tensor] | None = None
        # Persistent: models built on the meta device get only the buffers that a checkpoint has.
        self.register_buffer("offsets", torch.tensor(self._first_rows(), device=device))
        self.register_load_state_dict_pre_hook(check_offsets)

    def reset_parameters(self) -> None:
        """Draw the table from N(0, 1), as the reference demo does, and restore the offsets.

        A table in a file, or a quantised one, stays as it is.

        Raises:
            UsageError: Processes share the table; each would draw the same rows.
        """
        if isinstance(self.embedding, ShardedEmbedding):
            raise UsageError(
                "A table that processes share cannot be initialised.",
                "Initialise the model before its tables are divided.",
            )
        if isinstance(self.embedding, nn.Embedding):
            nn.init.normal_(self.embedding.weight)
        with torch.no_grad():
            self.offsets.copy_(torch.tensor(self._first_rows()))

    def zero(self) -> None:
        """Make every row zero. A frozen table stays as it is."""
        if not isinstance(self.embedding, FrozenTable):
            nn.init.zeros_(self.embedding.weight)

    def keep_on_host(self) -> None:
        """Have a table in memory stay on the host when the module moves to an accelerator.

        See `OffloadEmbedding`. A table in a file, or a quantised one, stays as it is.
        """
        table = self.embedding
        if type(table) is nn.Embedding:
            kept = OffloadEmbedding(*table.weight.shape, sparse=table.sparse, device="meta")
            kept.weight = table.weight
            self.embedding = kept

    def forward(self, hash_ids: Tensor) -> Tensor:
        """Look up the rows of all columns, side by side.

        Args:
            hash_ids: Rows within each head's part, without offsets, int ``[..., C]``.

        Returns:
            Memory ``[..., C * width]``, on the device of the offsets.

        Raises:
            LayoutError: The number of columns is wrong, or (checked on a CPU) ids are outside their
                head.
        """
        if hash_ids.shape[-1:] != self.offsets.shape:
            raise LayoutError(
                f"Hash ids have {hash_ids.shape[-1] if hash_ids.ndim else 0} columns, the table "
                f"{len(self.head_sizes)} heads.",
                "Hash with the config that the module was built from.",
                shape=list(hash_ids.shape),
                heads=len(self.head_sizes),
            )
        if hash_ids.device.type == "cpu" and not records_a_graph():
            self._check_range(hash_ids)
        return self.rows(self.row_ids(hash_ids)).flatten(-2)

    def row_ids(self, hash_ids: Tensor) -> Tensor:
        """Return the row ids of hash ids ``[..., C]``: their offsets added, same shape."""
        return hash_ids.to(self.offsets.device) + self.offsets

    def rows(self, row_ids: Tensor) -> Tensor:
        """Look up rows of the table.

        Args:
            row_ids: Row ids with offsets already added, int of any shape.

        Returns:
            Rows ``[..., width]``.

        Raises:
            LayoutError: An id is outside the table (checked on a CPU only).
        """
        try:
            return cast(Tensor, self.embedding(row_ids))
        except IndexError:
            low, high = int(row_ids.min()), int(row_ids.max())
            rows = self.embedding.num_embeddings
            raise LayoutError(
                f"Row ids must be in 0..{rows - 1}, got {low}..{high}.",
                "Hash with the config that the module was built from.",
                lowest=low,
                highest=high,
                rows=rows,
            ) from None

    def _check_range(self, hash_ids: Tensor) -> None:
        """Raise an error for ids that would read another head's rows."""
        if self._bounds is None:
            last = torch.tensor(self.head_sizes, device="cpu") - 1
            self._bounds = (torch.zeros_like(last), last)
        # Two operations, where comparing takes four: a step of decoding is that short.
        inside = hash_ids.clamp(*self._bounds)
        if torch.equal(inside, hash_ids.to(inside.dtype)):
            return
        where = (inside != hash_ids).nonzero()[0].tolist()
        column, value = where[-1], int(hash_ids[tuple(where)])
        raise LayoutError(
            f"Hash id {value} at {where} is not in 0..{self.head_sizes[column] - 1}, the rows of "
            f"head {column}.",
            "Hash with the config that the module was built from, for this layer, without offsets.",
            hash_id=value,
            position=where,
            rows=self.head_sizes[column],
        )

    def _first_rows(self) -> list[int]:
        return [0, *accumulate(self.head_sizes[:-1])]


def check_offsets(
    module: MultiHeadEmbedding, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Compare stored offsets with the sizes of a table's heads, as a hook before loading.

    Args:
        module: The table.
        state: Tensors by name; the offsets may be missing, or on the meta device.
        prefix: Start of the table's names in them.

    Raises:
        MismatchError: They are for heads of other sizes.
    """
    stored = state.get(f"{prefix}offsets")
    if stored is not None and not stored.is_meta:
        check_constant(f"{prefix}offsets", stored.tolist(), module._first_rows())

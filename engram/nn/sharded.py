"""`ShardedEmbedding`: a table whose rows are divided among the processes of a group.

Shapes: n distinct ids of this process, a ids that others ask of it, P processes, E width of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from engram.errors import MismatchError, UsageError
from engram.nn.rows import RamRows, Rows, rows_of


def place_in(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return the rank of this process in a group, and the number of processes in it.

    Args:
        group: The processes; the default group when None.

    Raises:
        UsageError: There is no process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "A table can only be divided among the processes of a group, and there is none.",
            "Start with torchrun, and call torch.distributed.init_process_group().",
        )
    return dist.get_rank(group), dist.get_world_size(group)


def first_row_of(rank: int, ranks: int, rows: int) -> int:
    """Return the first row of a rank: ``rank * rows // ranks``.

    Rank r has the rows from here to `first_row_of` of r + 1, so that ranks differ by at most one
    row.

    Args:
        rank: The process, 0..ranks; `ranks` gives the end of the table.
        ranks: Number of processes.
        rows: Rows of the whole table.
    """
    return rank * rows // ranks


class ShardedEmbedding(nn.Module):
    """An embedding of which each process of a group has a range of rows.

    A look-up sends the distinct ids to the processes that have their rows, and the rows back. The
    gradients go the same way: their owner gets the mean over the processes, as
    DistributedDataParallel gives it for other parameters. So neither DistributedDataParallel nor
    FSDP may handle the table, see `engram.training.shards`.

    Every look-up, and every backward pass through one, is a collective: all processes take part in
    the same order, with or without ids of their own, also in evaluation.

    A state dict has the rows of this process only, and says which; another process cannot load it.

    Args:
        local: The embedding with this process's rows, numbered from 0, in memory or in a file.
        num_embeddings: Rows of the whole table.
        group: The processes; the default group when None.

    Attributes:
        local: See above.
        num_embeddings: Rows of the whole table.
        embedding_dim: Width E of a row.
        first_row: The first row of this process, see `first_row_of`.
        group: See above.

    Raises:
        UsageError: There is no process group, or it has more processes than the table rows.
        MismatchError: `local` does not have the rows that this process is to have.
    """

    def __init__(
        self, local: nn.Module, num_embeddings: int, group: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__()
        rank, ranks = place_in(group)
        if num_embeddings < ranks:
            raise UsageError(
                f"A table must have at least one row for each of {ranks} processes, got "
                f"{num_embeddings}.",
                "Leave it whole on each process: it is small.",
                rows=num_embeddings,
                ranks=ranks,
            )
        self.num_embeddings, self.group = num_embeddings, group
        self._ends = [first_row_of(it, ranks, num_embeddings) for it in range(ranks + 1)]
        self.first_row = self._ends[rank]
        here, wanted = cast(Any, local).num_embeddings, self._ends[rank + 1] - self.first_row
        if here != wanted:
            raise MismatchError(
                f"Rank {rank} of {ranks} must have {wanted} of the table's {num_embeddings} rows, "
                f"got {here}.",
                f"Give it the rows from {self.first_row} on.",
                rank=rank,
                rows=here,
                expected=wanted,
            )
        rows = rows_of(local)
        if not isinstance(rows, RamRows) and rows.first_row != self.first_row:
            raise MismatchError(
                f"Rank {rank} of {ranks} must have the rows from {self.first_row} on, got those "
                f"from {rows.first_row} on.",
                f"Open the file's rows from {self.first_row} on.",
                rank=rank,
                first_row=rows.first_row,
                expected=self.first_row,
            )
        self.local = local
        self.embedding_dim: int = cast(Any, local).embedding_dim

    @property
    def weight(self) -> nn.Parameter:
        """The rows of this process, which its gradients are for."""
        return cast(nn.Parameter, self.local.weight)

    @property
    def sparse(self) -> bool:
        """Whether gradients hold only the rows that were read."""
        return cast(bool, self.local.sparse)

    @sparse.setter
    def sparse(self, sparse: bool) -> None:
        cast(Any, self.local).sparse = sparse

    @property
    def rows(self) -> Rows:
        """The rows of this process."""
        rows = rows_of(self.local)
        return RamRows(self.weight, self.first_row) if isinstance(rows, RamRows) else rows

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows; a collective.

        Args:
            input: Row ids, int of any shape, also of no ids, on the device that the group
                communicates from.

        Returns:
            Rows ``[..., E]`` on the device of the ids.

        Raises:
            IndexError: An id is outside the table. The other processes then wait in vain.
        """
        distinct, inverse = torch.unique(input.to(torch.int64), return_inverse=True)
        ends = torch.tensor(self._ends, device=distinct.device)
        # Ids ascend, so those of each process are consecutive.
        places = torch.searchsorted(distinct, ends)  # [P + 1]
        counts = places.diff()
        asked_counts = _exchange(counts, [1] * len(counts), [1] * len(counts), self.group)
        places_here, asked = places.tolist(), asked_counts.tolist()
        if places_here[0] != 0 or places_here[-1] != len(distinct):
            raise IndexError(f"row ids must be in 0..{self.num_embeddings - 1}")
        wanted = [end - start for start, end in pairwise(places_here)]
        ids = _exchange(distinct, wanted, asked, self.group) - self.first_row  # [a]
        return cast(Tensor, _Fetch.apply(self.local(ids), inverse, (asked, wanted), self.group))

    def get_extra_state(self) -> Tensor:
        """Return the first row and the rows of the whole table, for the state dict."""
        return torch.tensor([self.first_row, self.num_embeddings])

    def set_extra_state(self, state: Tensor) -> None:
        """Compare a state dict's rows with this process's.

        Raises:
            MismatchError: They are another range.
        """
        expected = [self.first_row, self.num_embeddings]
        if state.tolist() != expected:
            raise MismatchError(
                f"The state dict has rows from {int(state[0])} on of a table of {int(state[1])}; "
                f"this process has those from {expected[0]} on of {expected[1]}.",
                "Load the state dict that this rank saved, with as many processes.",
                stored=state.tolist(),
                expected=expected,
            )


class _Fetch(torch.autograd.Function):
    """The rows of this process's look-ups, from the rows that it and others asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        inverse: Tensor,
        splits: tuple[list[int], list[int]],
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        """Send rows ``[a, E]`` to the processes that asked, and put those received in place.

        Args:
            ctx: As torch gives it.
            given: Rows that processes asked for, in the order of ranks.
            inverse: The row of each look-up, among those received.
            splits: Rows for each process, and rows from each.
            group: The processes.
        """
        ctx.save_for_backward(inverse)
        ctx.splits, ctx.group = splits, group
        return F.embedding(inverse, _exchange(given, *splits, group))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Send the mean's share of each row's gradient to its owner."""
        (inverse,), (given, received) = ctx.saved_tensors, ctx.splits
        wide = torch.promote_types(grad.dtype, torch.float32)
        total = grad.new_zeros((sum(received), grad.shape[-1]), dtype=wide)
        total.index_add_(0, inverse.flatten(), grad.flatten(0, -2).to(wide))
        total /= len(received)
        return _exchange(total.to(grad.dtype), received, given, ctx.group), None, None, None


def _exchange(
    values: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup | None
) -> Tensor:
    """Send consecutive parts to the processes, and return the parts that they send, in order.

    Args:
        values: The parts for all processes, one after the other ``[sum(sent), ...]``.
        sent: Length of each part.
        received: Length of the part that each process sends.
        group: The processes.
    """
    result = values.new_empty((sum(received), *values.shape[1:]))
    dist.all_to_all_single(result, values.contiguous(), list(received), list(sent), group=group)
    return result

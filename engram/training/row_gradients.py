"""`RowGradients`: takes the sparse gradients of a table as they come, and sums them for a step.

Gradients of tables never stay in `.grad`: torch's clipping, and with it every trainer's, fails for
sparse ones, and so do the collectives of some back ends.

Shapes: n rows, W values of a row.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary, ref

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engram.errors import InputError, LayoutError
from engram.training.processes import transport_device

# By id of the parameter, which its owner keeps alive: a new optimiser takes over from an old one.
_owners: WeakValueDictionary[int, RowGradients] = WeakValueDictionary()


class RowGradients:
    """Sparse gradients of one table since the last step.

    Args:
        weight: The table ``[rows, W]``, whose gradients are sparse.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self._pending: list[tuple[Tensor, Tensor]] = []
        earlier = _owners.get(id(weight))
        if earlier is not None:
            earlier.release()
        _owners[id(weight)] = self
        me = ref(self)

        def take(parameter: Tensor) -> None:
            owner = me()
            if owner is not None:
                owner._take(parameter)

        self._handle = weight.register_post_accumulate_grad_hook(take)

    def release(self) -> None:
        """Take no more gradients."""
        self._handle.remove()

    def clear(self) -> None:
        """Forget the gradients."""
        self._pending.clear()

    def summed(self, *, exchange: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients since the last step, one for each row; they are forgotten.

        Args:
            exchange: Whether other processes hold the same table, and gradients of it: all get the
                mean over the processes.

        Returns:
            Row numbers, ascending, int64 ``[n]``; and their gradients ``[n, W]``, in float32, or
            float64 for a table in float64.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        # Each micro-batch as one: adding them in turn is the order of gradient accumulation.
        ids, grads = summed_rows(self._pending, self.weight, wide)
        self.clear()
        if not exchange:
            return ids, grads
        ranks = dist.get_world_size()
        ids, grads = summed_rows(_of_all_ranks(ids, grads), self.weight, wide)
        return ids, grads / ranks

    def _take(self, parameter: Tensor) -> None:
        grad = parameter.grad
        parameter.grad = None
        if grad is None:
            return
        if not grad.is_sparse:
            raise LayoutError(
                "The gradient of a table is dense, but MemoryOptimizer made it sparse.",
                "Make the optimiser after everything that wraps the model (PEFT), and leave "
                "embedding.sparse as it sets it.",
            )
        # Duplicates of 16-bit rows are summed in float32.
        wide = torch.promote_types(grad.dtype, torch.float32)
        grad = (grad if grad.is_coalesced() else grad.to(wide)).coalesce()
        self._pending.append((grad.indices()[0], grad.values()))


def refuse_float16(module: nn.Module, args: Any) -> None:
    """Refuse autocast to float16, as a hook before a table is read.

    Its gradients need scaling, and the scaler does not see those of tables.

    Raises:
        InputError: It is on.
    """
    device = args[0].device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        raise InputError(
            "A memory cannot be trained under autocast to float16: the scaler of gradients does "
            "not see those of its tables.",
            "Use bfloat16 (bf16=True) or float32.",
        )


def summed_rows(
    parts: list[tuple[Tensor, Tensor]], weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sum gradients by row.

    Args:
        parts: Row numbers ``[n]`` and gradients ``[n, W]``, each part's rows ascending.
        weight: The table, for its shape and device.
        dtype: dtype of the sums.

    Returns:
        Row numbers, ascending, and their sums.
    """
    if not parts:
        none = torch.empty(0, dtype=torch.int64, device=weight.device)
        return none, torch.empty(0, weight.shape[1], dtype=dtype, device=weight.device)
    if len(parts) == 1:
        ids, grads = parts[0]
        return ids, grads.to(dtype)
    every = torch.cat([ids for ids, _ in parts])
    ids, inverse = torch.unique(every, return_inverse=True)
    sums = torch.zeros(len(ids), weight.shape[1], dtype=dtype, device=weight.device)
    for (_, grads), places in zip(
        parts, inverse.split([len(ids) for ids, _ in parts]), strict=True
    ):
        # Distinct within a part: the sum does not depend on the order of threads.
        sums[places] += grads.to(dtype)
    return ids, sums


def _of_all_ranks(ids: Tensor, grads: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Gather the rows of all processes, which may be different numbers of them."""
    ranks, home = dist.get_world_size(), ids.device
    carrier = transport_device()
    ids, grads = ids.to(carrier), grads.to(carrier)
    counts = [torch.zeros(1, dtype=torch.int64, device=ids.device) for _ in range(ranks)]
    dist.all_gather(counts, torch.tensor([len(ids)], device=ids.device))
    most = max(int(count) for count in counts)
    padded_ids, padded = ids.new_zeros(most), grads.new_zeros(most, grads.shape[1])
    padded_ids[: len(ids)], padded[: len(ids)] = ids, grads
    every_ids = [torch.empty_like(padded_ids) for _ in range(ranks)]
    every = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(every_ids, padded_ids)
    dist.all_gather(every, padded)
    return [
        (other[: int(count)].to(home), rows[: int(count)].to(home))
        for other, rows, count in zip(every_ids, every, counts, strict=True)
    ]

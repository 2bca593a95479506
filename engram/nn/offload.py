"""`OffloadEmbedding`: a table that stays in host memory while the rest of the module moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.nn.compat import address_of, version_of
from engram.nn.rows import gradient_of_look_ups

# Held while a cache is read and written: threads that share a model share its caches. Not an
# attribute, since modules are copied and pickled.
_cache_lock = threading.Lock()


class OffloadEmbedding(nn.Embedding):
    """An embedding whose table stays on the host when the module moves to an accelerator.

    A look-up removes duplicate ids, gathers the rows on the host into pinned memory and copies them
    to the device of the ids at once. The table is trained like any other: gradients are moved to
    the host, sparse ones if `sparse` is set.

    Without gradients, look-ups may go through a cache of rows on the device. Each row has one line
    where it can be cached; the newest row stays. Results never depend on the cache: it is dropped
    when the table changes, or when a look-up with gradients shows that it is about to change.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Width of a row.
        cache_lines: Rows cached on the device for inference; 0 for none.
        sparse: Whether the table's gradients are sparse.
        device: The meta device; others are ignored, since the table is on the host.
        dtype: dtype of the table.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        cache_lines: int = 0,
        *,
        sparse: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        asked = torch.get_default_device() if device is None else torch.device(device)
        home = "meta" if asked.type == "meta" else "cpu"
        super().__init__(num_embeddings, embedding_dim, sparse=sparse, device=home, dtype=dtype)
        self.cache_lines = cache_lines
        self.clear_cache()

    def clear_cache(self) -> None:
        """Forget the cached rows; needed only after writing to `weight.data` directly."""
        self._cache_key: tuple[Any, ...] | None = None
        self._cached_ids = self._cached_rows = torch.empty(0)

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows.

        Args:
            input: Row ids, int of any shape, on any device.

        Returns:
            Rows ``[..., embedding_dim]`` on the device of the ids.
        """
        if torch.is_grad_enabled():
            self.clear_cache()
            if self.sparse:
                return cast(Tensor, _HostLookUp.apply(self.weight, input))
        distinct, inverse = torch.unique(input, return_inverse=True)
        if torch.is_grad_enabled():
            rows = cast(Tensor, _HostRows.apply(self.weight, distinct))
        elif self.cache_lines:
            with _cache_lock:
                rows = self._through_cache(distinct)
        else:
            rows = _gather(self.weight, distinct)
        return F.embedding(inverse, rows)

    def _through_cache(self, distinct: Tensor) -> Tensor:
        """Look up distinct ids ``[n]``, and add missing rows to the cache."""
        home = distinct.device
        key = (home, self.weight.dtype, address_of(self.weight), version_of(self.weight))
        if key != self._cache_key:
            # Tensors made in inference mode could not be written to later, outside of it.
            with torch.inference_mode(False):
                shape = (self.cache_lines, self.embedding_dim)
                self._cached_ids = torch.full(shape[:1], -1, dtype=torch.int64, device=home)
                self._cached_rows = torch.empty(shape, dtype=self.weight.dtype, device=home)
            self._cache_key = key
        lines = distinct % self.cache_lines
        missed = self._cached_ids[lines] != distinct
        missing, free = distinct[missed], lines[missed]
        fetched = _gather(self.weight, missing)
        # The result is complete before any line is given to another row.
        rows = self._cached_rows[lines]
        rows[missed] = fetched
        # Of several new rows for one line, only the one that was written last is stored.
        self._cached_ids[free] = missing
        owns = self._cached_ids[free] == missing
        self._cached_rows[free[owns]] = fetched[owns]
        return rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OffloadEmbedding:
        """Follow changes of dtype, and moves between host and meta, but not to an accelerator."""
        self.clear_cache()
        # `fn` is tried on an empty tensor first: the table may not fit on the target device.
        probe = fn(torch.empty(0, dtype=self.weight.dtype, device=self.weight.device))
        if probe.device.type in ("cpu", "meta"):
            return cast(OffloadEmbedding, super()._apply(fn, recurse))

        def stay(tensor: Tensor) -> Tensor:
            if tensor.is_meta:
                return torch.empty_like(tensor, dtype=probe.dtype, device="cpu")
            return tensor.to("cpu", probe.dtype)

        return cast(OffloadEmbedding, super()._apply(stay, recurse))


class _HostRows(torch.autograd.Function):
    """Rows of a host table on another device, with a dense gradient that flows back to the host."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, distinct: Tensor) -> Tensor:
        """Copy rows ``[n, width]``."""
        ctx.save_for_backward(distinct)
        ctx.shape, ctx.home = table.shape, table.device
        return _gather(table, distinct)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the table's gradient, which is zero except for the rows that were read."""
        (distinct,) = ctx.saved_tensors
        ids, grad = distinct.to(ctx.home), grad.to(ctx.home)
        return grad.new_zeros(ctx.shape).index_copy_(0, ids, grad), None


class _HostLookUp(torch.autograd.Function):
    """Look-ups in a host table on another device, with a sparse gradient."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, input: Tensor) -> Tensor:
        """Look up rows ``[..., width]``."""
        ctx.save_for_backward(input)
        ctx.shape, ctx.home = table.shape, table.device
        distinct, inverse = torch.unique(input, return_inverse=True)
        return F.embedding(inverse, _gather(table, distinct))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the table's gradient."""
        (ids,) = ctx.saved_tensors
        return gradient_of_look_ups(ids, grad, ctx.shape, ctx.home), None


def _gather(table: Tensor, ids: Tensor) -> Tensor:
    """Copy rows of a host table ``[n, width]`` to the device of the ids."""
    host_ids = ids.to(table.device)
    if ids.device.type != "cuda" or table.device.type != "cpu":
        return table.index_select(0, host_ids).to(ids.device)
    # Copies from pinned memory are asynchronous.
    pinned = torch.empty((len(ids), table.shape[1]), dtype=table.dtype, pin_memory=True)
    torch.index_select(table.detach(), 0, host_ids, out=pinned)
    return pinned.to(ids.device, non_blocking=True)

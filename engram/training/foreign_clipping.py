"""`ForeignClipping`: notices gradients that somebody clipped before the optimiser clips them."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engram.training.processes import process_count


class ForeignClipping:
    """Watches one small gradient from the backward pass to the step.

    A trainer that clips sees dense gradients alone: those of rows are with the optimiser. Their
    proportion, and the norm that is clipped to, would be wrong. Other processes' gradients are
    added in between, so that nothing can be noticed in several.

    Args:
        dense: Parameters that are not tables.
    """

    def __init__(self, dense: Sequence[nn.Parameter]) -> None:
        self._seen: Tensor | None = None
        self._weight = min(dense, key=torch.Tensor.numel, default=None)
        if self._weight is not None and process_count() == 1:
            self._weight.register_post_accumulate_grad_hook(self._see)

    def look(self) -> None:
        """Warn if the gradient is another than it was after the backward pass; once."""
        seen, self._seen = self._seen, None
        if self._weight is None or seen is None or self._weight.grad is None:
            return
        if not torch.equal(seen, self._weight.grad):
            self._weight = None
            warnings.warn(
                "Gradients were changed after the backward pass, as clipping does: "
                "MemoryOptimizer clips all of them jointly, rows too. Set max_grad_norm=0 in the "
                "trainer, and MemoryOptimizer's own max_grad_norm.",
                stacklevel=4,
            )

    def _see(self, weight: Tensor) -> None:
        if self._weight is not None and weight.grad is not None:
            self._seen = weight.grad.detach().clone()

"""`MemoryWatch`: what the memories of a model did in its last forward pass.

Shapes: B sequences, T tokens, M streams, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engram.nn import EngramModule
from engram.training.controls import memories_of


@dataclass(frozen=True)
class Reading:
    """Gates and norms of one layer in one forward pass, in float32 on the CPU.

    Attributes:
        gates: Gates ``[B, T, M]``.
        write_norms: Euclidean norm of what was added to each stream ``[B, T, M]``.
        stream_norms: Norm of each stream before ``[B, T, M]``.
    """

    gates: Tensor
    write_norms: Tensor
    stream_norms: Tensor

    @property
    def relative_writes(self) -> Tensor:
        """Norm of what was added over that of its stream ``[B, T, M]``; 0 where both are zero."""
        return self.write_norms / self.stream_norms.clamp_min(torch.finfo(torch.float32).tiny)


class MemoryWatch:
    """Watches the memories of a model within a block.

    Args:
        model: A model with memories.

    Attributes:
        readings: What each layer's memory did in the last forward pass, by layer, lowest first.

    Raises:
        UsageError: The model has no memory.
    """

    def __init__(self, model: Any) -> None:
        self._memories = sorted(memories_of(model), key=lambda memory: memory.layer_id or 0)
        self.readings: dict[int, Reading] = {}

    def __enter__(self) -> MemoryWatch:
        self._before = [memory.on_read for memory in self._memories]
        for memory in self._memories:
            memory.on_read = self._listener(memory)
        return self

    def __exit__(self, *_: object) -> None:
        for memory, before in zip(self._memories, self._before, strict=True):
            memory.on_read = before

    def _listener(self, memory: EngramModule) -> Callable[[Tensor, Tensor, Tensor], None]:
        layer_id = int(memory.layer_id or 0)

        def keep(gates: Tensor, streams: Tensor, added: Tensor) -> None:
            self.readings[layer_id] = Reading(
                gates.float().cpu(),
                added.float().norm(dim=-1).cpu(),
                streams.float().norm(dim=-1).cpu(),
            )

        return keep

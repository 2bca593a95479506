"""`memory_off`: a block in which the memories of a model add nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engram.nn import EngramModule
from engram.training.controls import memories_of


@contextmanager
def memory_off(model: Any) -> Iterator[None]:
    """Let every memory add exactly nothing within a block; weights and tables stay as they are.

    Args:
        model: A model with memories.

    Raises:
        UsageError: The model has no memory.
    """
    hooks = [
        memory.register_forward_hook(_nothing_added, with_kwargs=True)
        for memory in memories_of(model)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nothing_added(
    memory: EngramModule, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Replace the output of a call of an `EngramModule` by that of one which adds zero."""
    hidden_states: Tensor = args[0] if args else kwargs["hidden_states"]
    includes_them = kwargs.get("residual", False) or memory.layout.residual_included
    out = hidden_states if includes_them else torch.zeros_like(hidden_states)
    return (out, output[1]) if kwargs.get("return_past", False) else out

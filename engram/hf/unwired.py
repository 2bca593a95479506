"""The base of a wired model, as a model of its own that shares its weights."""

from __future__ import annotations

import copy
from typing import Any

from engram.hf.calls import MemoryDecoder, MemoryLayer, PlainLayer
from engram.hf.classes import class_after
from engram.hf.models import EngramForCausalLM

_MIXINS: tuple[Any, ...] = (EngramForCausalLM, MemoryDecoder, MemoryLayer, PlainLayer)


def base_of(model: Any) -> Any:
    """Copy a model without its memories.

    Args:
        model: A model with memories, or without.

    Returns:
        A model of the base's class. Its weights are those of `model`, not copies.
    """
    tensors = [*model.parameters(), *model.buffers()]
    # deepcopy leaves as they are the objects that its memo holds as copied already.
    base = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(base.modules()):
        for mixin in _MIXINS:
            if isinstance(module, mixin):
                module.__class__ = class_after(type(module), mixin)
                if "engram" in dict(module.named_children()):
                    del module.engram
    return base

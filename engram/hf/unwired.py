"""Returns the base of a wired model as a separate model that shares its weights."""

import copy
from typing import Any

from engram.hf.calls import MemoryDecoder, MemoryLayer, PlainLayer
from engram.hf.classes import class_after
from engram.hf.models import EngramForCausalLM

# Keys that attaching adds to a config, or changes.
_OURS = ("engram", "auto_map", "architectures", "model_type")
_MIXINS: tuple[Any, ...] = (EngramForCausalLM, MemoryDecoder, MemoryLayer, PlainLayer)


def base_config(config: Any) -> Any:
    """Return the config of a base.

    Args:
        config: That of a model with a memory.
    """
    values = {key: value for key, value in config.to_dict().items() if key not in _OURS}
    kind: Any = type(config).__bases__[0]
    return kind.from_dict(values)


def base_of(model: Any) -> Any:
    """Copy a model without its memories.

    Args:
        model: A model with or without memories.

    Returns:
        A model of the base's class, which shares the weights of `model`.
    """
    tensors = [*model.parameters(), *model.buffers()]
    # deepcopy does not copy objects that are already in its memo.
    base = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(base.modules()):
        for mixin in _MIXINS:
            if isinstance(module, mixin):
                module.__class__ = class_after(type(module), mixin)
                if "engram" in dict(module.named_children()):
                    del module.engram
    return base

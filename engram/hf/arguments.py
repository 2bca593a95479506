"""Arguments of a call that are for the memory, on their way to the decoder.

Models hand what they do not know to their decoder, or drop it; multimodal ones hand on embeddings
in the place of ids. So a model's `forward` takes the memory's arguments off, and the decoder finds
them in a context variable, of which every thread has its own; in compiled graphs, which know no
such variables, they travel as keywords.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch

from engram.errors import InputError
from engram.hf import compat

# What a model with a memory takes beside the arguments of its base.
MEMORY_ARGUMENTS = ("engram_input_ids", "engram_mask", "hash_ids")
_told: ContextVar[dict[str, Any] | None] = ContextVar("engram_arguments", default=None)


def forward_with_memory(base: Callable[..., Any], *, tell_text: bool = False) -> Callable[..., Any]:
    """Return the `forward` of a model with a memory.

    It takes `MEMORY_ARGUMENTS`, too, and hands them to the decoder, whatever lies between. Its
    signature says so, since transformers and its Trainer drop what a signature does not name.

    Args:
        base: The `forward` of the model's class without a memory.
        tell_text: Whether the decoder gets neither token ids nor the 2-D mask from it, and has to
            be told: multimodal models hand on embeddings, and masks of their own.
    """
    name, signature = compat.cache_name(base), inspect.signature(base)
    hands_on, positional = takes_keywords(signature), tuple(signature.parameters)[1:]

    @functools.wraps(base)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        compat.rename_cache(kwargs, name)
        told = {key: kwargs.pop(key) for key in MEMORY_ARGUMENTS if key in kwargs}
        told = {key: value for key, value in told.items() if value is not None}
        if tell_text:
            told = _text({**dict(zip(positional, args, strict=False)), **kwargs}) | told
        if not told:
            return base(self, *args, **kwargs)
        if torch.compiler.is_compiling():
            if not hands_on:
                raise InputError(
                    f"{type(self).__name__} hands no keywords to its decoder, and cannot be "
                    f"compiled with {', '.join(told)}.",
                    "Run it without torch.compile.",
                )
            return base(self, *args, **kwargs, **told)
        before = _told.set(told)
        try:
            return base(self, *args, **kwargs)
        finally:
            _told.reset(before)

    own = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None)
        for key in MEMORY_ARGUMENTS
    ]
    others = list(signature.parameters.values())
    place = len(others) - 1 if hands_on else len(others)
    forward.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*others[:place], *own, *others[place:]]
    )
    return forward


def _text(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return token ids and 2-D mask of a call's arguments, as `MEMORY_ARGUMENTS`.

    A mask that is None masks nothing.
    """
    found, ids, mask = {}, arguments.get("input_ids"), arguments.get("attention_mask")
    if ids is not None:
        found["engram_input_ids"] = ids
    if mask is None or getattr(mask, "ndim", None) == 2:
        found["engram_mask"] = mask
    return found


def told_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the memory's arguments off a decoder's keywords, and add those its model was given.

    Args:
        arguments: Keyword arguments of the decoder's call; changed in place.
    """
    told = {} if torch.compiler.is_compiling() else _told.get() or {}
    return told | {key: arguments.pop(key) for key in MEMORY_ARGUMENTS if key in arguments}


def takes_keywords(signature: inspect.Signature) -> bool:
    """Whether a function takes keywords that it does not name."""
    return any(it.kind is it.VAR_KEYWORD for it in signature.parameters.values())

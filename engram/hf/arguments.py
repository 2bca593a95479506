"""Passes the memory's arguments of a call on to the decoder.

Models pass unknown arguments to their decoder, or drop them; multimodal ones pass embeddings
instead of ids. So a model's `forward` removes the memory's arguments, and the decoder finds them in
a context variable, of which every thread has its own. Compiled decoders, which do not support such
variables, find them among their keywords, if the model passes those on.

Shapes: B sequences, T tokens, L layers with a memory, C columns.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.errors import InputError
from engram.hf import compat
from engram.nn.compat import records_a_graph

# Arguments of a model with a memory, in addition to those of its base.
MEMORY_ARGUMENTS = ("engram_input_ids", "engram_mask", "hash_ids")


T = TypeVar("T")


@dataclass
class _Told:
    """The memory's arguments of a call, and whether its decoder took them."""

    arguments: dict[str, Any]
    taken: bool = False


_told: ContextVar[_Told | None] = ContextVar("engram_arguments", default=None)


@contextmanager
def bound(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable a value inside a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def forward_with_memory(base: Callable[..., Any], *, tell_text: bool = False) -> Callable[..., Any]:
    """Return the `forward` of a model with a memory.

    It also takes `MEMORY_ARGUMENTS`, and passes them to the decoder, whatever code is in between.
    They are part of its signature, since transformers and its Trainer drop other arguments.

    Args:
        base: The `forward` of the model's class without a memory.
        tell_text: Whether to pass token ids and the 2-D mask as well: multimodal models give their
            decoder embeddings and other masks instead.
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
        if torch.compiler.is_compiling() and not hands_on:
            raise _not_handed_on(self, told)
        if hands_on and (torch.compiler.is_compiling() or not tell_text):
            kwargs |= told
        if torch.compiler.is_compiling():
            return base(self, *args, **kwargs)
        box = _Told(told)
        with bound(_told, box):
            outputs = base(self, *args, **kwargs)
        if not box.taken and (tell_text or not hands_on):
            raise _not_handed_on(self, told)
        return outputs

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


def _not_handed_on(model: Any, told: Mapping[str, Any]) -> InputError:
    return InputError(
        f"{type(model).__name__} passes no keywords to its decoder: compiled, it cannot be given "
        f"{', '.join(told)}.",
        "Run it without torch.compile.",
    )


def _text(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the token ids and the 2-D mask in a call's arguments, as `MEMORY_ARGUMENTS`."""
    found, ids, mask = {}, arguments.get("input_ids"), arguments.get("attention_mask")
    if ids is not None:
        found["engram_input_ids"] = ids
    if mask is None:
        found["engram_mask"] = False  # whatever mask the model makes from it
    elif getattr(mask, "ndim", None) == 2:
        found["engram_mask"] = mask
    return found


def told_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove the memory's arguments from a decoder's keywords, and add those given to its model.

    Args:
        arguments: Keyword arguments of the decoder's call; changed in place.
    """
    own = {key: arguments.pop(key) for key in MEMORY_ARGUMENTS if key in arguments}
    box = (None if torch.compiler.is_compiling() else _told.get()) or _Told({})
    box.taken = True
    return box.arguments | {key: value for key, value in own.items() if value is not None}


def checked_ids(given: Any, shape: Sequence[int]) -> Tensor:
    """Check `engram_input_ids`.

    Args:
        given: The argument.
        shape: Shape of the decoder's tokens, B and T.

    Returns:
        Token ids ``[B, T]``.

    Raises:
        InputError: They are not whole numbers, are negative, or have the wrong shape.
    """
    ids = _as_tensor("engram_input_ids", given)
    if not _is_whole(ids) or list(ids.shape) != list(shape):
        raise InputError(
            f"engram_input_ids must be whole numbers of shape {list(shape)} (sequences, tokens), "
            f"got {ids.dtype} {list(ids.shape)}.",
            "Pass the ids of the tokens that inputs_embeds were made from.",
            shape=list(ids.shape),
            expected=list(shape),
        )
    if not records_a_graph() and bool((ids < 0).any()):
        raise InputError(
            f"engram_input_ids must be >= 0, got {int(ids.min())}.",
            "Pass the ids of the tokens that inputs_embeds were made from.",
        )
    return ids


def checked_mask(name: str, given: Any, batch: int) -> Tensor:
    """Check a 2-D mask.

    Args:
        name: Name of the argument.
        given: False or 0 at masked tokens ``[B, past + T]``, or ``[1, past + T]``.
        batch: Sequences B.

    Returns:
        The mask ``[B, past + T]``.

    Raises:
        InputError: It is not 2-D, or for another batch.
    """
    mask = _as_tensor(name, given)
    if mask.ndim != 2 or mask.shape[0] not in (1, batch):
        raise InputError(
            f"{name} must have the shape [{batch}, tokens so far], got {list(mask.shape)}.",
            "Give one row per sequence, including the cached tokens.",
            shape=list(mask.shape),
            batch=batch,
        )
    return mask.expand(batch, -1)


def checked_hash_ids(given: Any, addresses: Addresses, shape: Sequence[int]) -> Tensor:
    """Check hash ids that were computed elsewhere.

    Args:
        given: Hash ids without offsets ``[B, T, L, C]``, -1 for those to compute here.
        addresses: The memory's constants.
        shape: Shape of their tokens, B and T.

    Returns:
        The same, int64.

    Raises:
        InputError: They have the wrong shape or dtype, or one is outside its head's table.
            Values are not checked while a graph is recorded.
    """
    hash_ids = _as_tensor("hash_ids", given)
    expected = [*shape, len(addresses.layers), addresses.n_columns]
    if list(hash_ids.shape) != expected or not _is_whole(hash_ids):
        raise InputError(
            f"hash_ids must be whole numbers of shape {expected} (sequences, tokens, layers, "
            f"columns), got {hash_ids.dtype} {list(hash_ids.shape)}.",
            "Pass those of engram.HashedDataset or EngramTokenizer.compress_and_hash for the same "
            "tokens, or leave them out: the model hashes its input_ids itself.",
            shape=list(hash_ids.shape),
            expected=expected,
        )
    hash_ids = hash_ids.long()
    if records_a_graph():
        return hash_ids
    rows = torch.tensor([layer.heads for layer in addresses.layers], device=hash_ids.device)
    outside = (hash_ids < -1) | (hash_ids >= rows)
    if bool(outside.any()):
        place = outside.nonzero()[0].tolist()
        found, rows_of_head = int(hash_ids[tuple(place)]), int(rows[place[2], place[3]])
        raise InputError(
            f"hash_ids must be in 0..{rows_of_head - 1} for this head, got {found} at {place}.",
            "They belong to another memory, or include offsets: pass hash ids without offsets.",
            hash_id=found,
            place=place,
            rows=rows_of_head,
        )
    return hash_ids


def _as_tensor(name: str, value: Any) -> Tensor:
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"{name} must be a tensor, got {type(value).__name__}.", "Wrap it: torch.tensor(...)"
        )
    return tensor


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def takes_keywords(signature: inspect.Signature) -> bool:
    """Whether a function takes arbitrary keywords."""
    return any(it.kind is it.VAR_KEYWORD for it in signature.parameters.values())

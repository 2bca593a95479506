"""The memory's arguments in `generate`: checked once, then passed on step by step.

Shapes: B sequences, P tokens of the prompt, S tokens so far, L layers with a memory, C columns.
"""

from typing import Any

import torch

from engram.addressing.addresses import Addresses
from engram.errors import InputError
from engram.hf import compat
from engram.hf.arguments import checked_hash_ids

_PROMPTS = ("inputs", "input_ids", "inputs_embeds")


def check_prompt(args: tuple[Any, ...], kwargs: dict[str, Any], addresses: Addresses) -> None:
    """Check the memory's arguments of a call of `generate`.

    Args:
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call; hash ids in them are turned into a tensor, in place.
        addresses: The memory's constants.

    Raises:
        InputError: `hash_ids` do not fit the prompt, or are combined with an `assistant_model`,
            which has another memory; or `engram_mask` is given instead of `attention_mask`.
    """
    if kwargs.get("engram_mask") is not None:
        raise InputError(
            "generate() does not take engram_mask, which would not grow with the text.",
            "Pass the 2-D mask as attention_mask.",
        )
    if kwargs.get("hash_ids") is None:
        return
    if kwargs.get("assistant_model") is not None:
        raise InputError(
            "hash_ids cannot be used with an assistant_model, which would get them as well.",
            "Leave hash_ids out: the model hashes its input_ids itself.",
        )
    given = (*args[:1], *(kwargs[name] for name in _PROMPTS if name in kwargs))
    prompt = next((it for it in given if it is not None), None)
    if prompt is None:
        raise InputError("hash_ids were given without a prompt.", "Pass its input_ids, too.")
    kwargs["hash_ids"] = checked_hash_ids(kwargs["hash_ids"], addresses, prompt.shape[:2])


def keep_prompt(
    inputs: Any, input_ids: Any, embedded: bool, memory_ids: Any, hash_ids: Any
) -> None:
    """Keep the ids and hash ids of a prompt that a step of `generate` reads.

    Args:
        inputs: Arguments of the step; changed in place.
        input_ids: All token ids so far ``[B, S]``, without a prompt of embeddings.
        embedded: Whether the prompt is given as embeddings.
        memory_ids: Ids of the prompt for the memory only ``[B, P]``, or None.
        hash_ids: Hash ids of the prompt ``[B, P, L, C]``, or None.
    """
    tokens = inputs.get("input_ids")
    read = inputs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        prompt = input_ids if memory_ids is None else memory_ids
        if prompt is not None and read is not None and prompt.shape == read.shape[:2]:
            inputs["engram_input_ids"] = prompt
    if hash_ids is None and memory_ids is None:
        return
    past = compat.cache_of(inputs)
    start = 0 if past is None else int(past.get_seq_length())
    stop = start + read.shape[1]
    if memory_ids is not None and not embedded:
        whole = torch.cat([memory_ids, input_ids[:, memory_ids.shape[1] :]], dim=1)
        inputs["engram_input_ids"] = whole[:, start:stop]
    if hash_ids is not None and start < hash_ids.shape[1]:
        own = hash_ids[:, start:stop]
        later = (own.shape[0], stop - start - own.shape[1], *own.shape[2:])
        inputs["hash_ids"] = torch.cat([own, own.new_full(later, -1)], dim=1)

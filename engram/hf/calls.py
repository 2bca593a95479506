"""Calls of a wired model: the decoder hashes ids, and its layers add their memories.

Ids, mask and state are passed with the call, as a keyword argument from the decoder to its layers,
so that threads and checkpointed recomputation see their own. Decoders that pass no keywords (BLOOM)
reach their layers through a context variable, of which every thread has its own.

Shapes: B sequences, T tokens, D hidden size, L layers with a memory, C columns.
"""

import inspect
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from engram.errors import InputError
from engram.hf import compat
from engram.hf.arguments import (
    bound,
    checked_hash_ids,
    checked_ids,
    checked_mask,
    takes_keywords,
    told_arguments,
)
from engram.hf.call_lookup import Lookup, Reader, look_up
from engram.hf.ids import MemoryIds
from engram.hf.state import MemoryState, give_state, state_of
from engram.nn import EngramModule
from engram.nn.compat import records_a_graph, records_a_lasting_graph
from engram.nn.disk import prefetch
from engram.nn.module import GatedTokens

_passed_beside: ContextVar[Lookup | None] = ContextVar("engram_lookup", default=None)


class MemoryLayer(nn.Module):
    """Mixed into a decoder layer's class: adds the memory to the layer's input."""

    engram: nn.Module  # an EngramModule, or a wrapper of one
    engram_layer_id: int

    def __call__(self, *args: Any, engram: Lookup | None = None, **kwargs: Any) -> Any:
        """Fetch the decoder's facts about the call before checkpointing saves the arguments."""
        if engram is None and not torch.compiler.is_compiling():
            engram = _passed_beside.get()
        return super().__call__(*args, engram=engram, **kwargs)

    def forward(
        self, hidden_states: Tensor, *args: Any, engram: Lookup | None = None, **kwargs: Any
    ) -> Any:
        """Run the layer on its input ``[B, T, D]`` plus the memory, if it has one."""
        if engram is None:
            raise InputError(
                f"Layer {self.engram_layer_id} was called without its memory's ids.",
                "Call the whole model, not its layers. A model whose decoder passes no keywords to "
                "its layers, such as BLOOM, cannot be compiled.",
            )
        hidden_states = _read(self.engram, self.engram_layer_id, hidden_states, engram)
        return super().forward(hidden_states, *args, **kwargs)


class PlainLayer(nn.Module):
    """Mixed into the classes of layers without a memory: drops the memory's argument."""

    def forward(self, *args: Any, engram: Lookup | None = None, **kwargs: Any) -> Any:
        """Run the layer."""
        return super().forward(*args, **kwargs)


def _read(memory: nn.Module, layer_id: int, hidden_states: Tensor, lookup: Lookup) -> Tensor:
    state = lookup.state
    window: Tensor | GatedTokens | None = None
    if state is not None:
        window = state.windows.get(layer_id)
        if window is None and lookup.before is not None:
            window = lookup.before.with_gates(state.gates[layer_id])
    # A call, since every wrapper forwards calls to the active memory.
    out, past = memory(
        hidden_states,
        lookup.ids,
        keep=_beside(lookup.keep, hidden_states),
        window=window,
        since=_beside(lookup.since, hidden_states),
        residual=True,
        return_past=True,
    )
    if state is not None and past is not None:
        state.windows[layer_id] = past.window
        state.gates[layer_id].append(past.gates, past.gates)
    return cast(Tensor, out)


def _beside(mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """Return a mask on the device of the layer, which may not be the decoder's first device."""
    return None if mask is None else mask.to(hidden_states.device)


class MemoryDecoder(nn.Module):
    """Mixed into a decoder's class: hashes the call's token ids and passes them to the layers."""

    config: Any
    engram_ids: MemoryIds
    engram_layers_name: str
    engram_positional: tuple[str, ...]
    engram_takes_keywords: bool
    engram_cache_name: str | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.engram_cache_name = compat.cache_name(super().forward)
        signature = inspect.signature(super().forward)
        cls.engram_positional = tuple(signature.parameters)[2:]
        cls.engram_takes_keywords = takes_keywords(signature)

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder.

        Args:
            input_ids: Token ids ``[B, T]``, or None with `inputs_embeds`.
            *args: As the decoder takes them.
            **kwargs: As the decoder takes them; and `MEMORY_ARGUMENTS`: the ids of the tokens when
                embeddings are given ``[B, T]``; the 2-D mask if `attention_mask` is not 2-D
                ``[B, past + T]``, or False for none; and hash ids of the tokens without offsets
                ``[B, T, L, C]``, which replace those computed here where they are not -1.

        Raises:
            InputError: The memory's ids are unknown, or do not fit the tokens or the tables.
        """
        kwargs.update(zip(self.engram_positional, args, strict=False))
        compat.rename_cache(kwargs, self.engram_cache_name)
        told = told_arguments(kwargs)
        given = kwargs.get("inputs_embeds") if input_ids is None else input_ids
        token_ids = told.get("engram_input_ids")
        if token_ids is not None and given is not None:
            token_ids = checked_ids(token_ids, given.shape[:2])
        elif token_ids is None:
            token_ids = input_ids
        if token_ids is None:
            raise InputError(
                "The memory reads token ids, but the model was called with inputs_embeds alone.",
                "Pass the ids of the same tokens as engram_input_ids=.",
            )
        cache = kwargs.get(self.engram_cache_name or "")
        if compat.is_paged(cache):
            refuse_continuous_batching()
        token_ids = token_ids.view(-1, token_ids.shape[-1])
        name, mask = "engram_mask", told.get("engram_mask")
        if mask is None:
            name, mask = "attention_mask", kwargs.get("attention_mask")
            if mask is not None and getattr(mask, "ndim", None) != 2:
                raise InputError(
                    "The attention mask is not 2-D, so the memory cannot tell which tokens are "
                    "padding.",
                    "Pass the 2-D mask [B, T] as engram_mask=, all ones if nothing is padded.",
                )
        state = self._state(cache, kwargs.get("use_cache"))
        mask = None if mask is None or mask is False else checked_mask(name, mask, len(token_ids))
        position_ids, hash_ids = kwargs.get("position_ids"), told.get("hash_ids")
        if hash_ids is not None:
            hash_ids = checked_hash_ids(hash_ids, self.engram_ids.addresses, token_ids.shape)
        lookup = self._look_up(token_ids, mask, position_ids, state, hash_ids)
        if self.engram_takes_keywords:
            kwargs["engram"] = lookup
        if torch.compiler.is_compiling():
            outputs = super().forward(input_ids, **kwargs)
        else:
            with bound(_passed_beside, lookup):
                outputs = super().forward(input_ids, **kwargs)
        if cache is None and state is not None:
            made = compat.cache_of(outputs)
            if made is not None:
                give_state(made, state)
        return outputs

    def _state(self, cache: Any, use_cache: bool | None) -> MemoryState | None:
        """Return the memory's state in the call's cache, or a new one for a future cache."""
        checkpointing = self.training and getattr(self, "gradient_checkpointing", False)
        if checkpointing and torch.is_grad_enabled():
            return None
        if records_a_lasting_graph():
            if cache is not None:
                _refuse_cache_in_graph()
            return None
        layer_ids = self.engram_ids.addresses.layer_ids
        if cache is None:
            uses = getattr(self.config, "use_cache", False) if use_cache is None else use_cache
            return MemoryState(layer_ids) if uses else None
        state = state_of(cache, layer_ids)
        try:
            cached_tokens = int(cache.get_seq_length())
        except ValueError:  # caches with only recurrent layers do not count tokens
            return state
        state.follow(cached_tokens)
        return state

    def _look_up(
        self,
        ids: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
        state: MemoryState | None,
        hash_ids: Tensor | None = None,
    ) -> Lookup:
        """See `look_up`."""
        memories = {it: self._memory(it) for it in sorted(self.engram_ids.addresses.layer_ids)}
        first = memories[self.engram_ids.addresses.layer_ids[0]]
        token_map = getattr(first, "token_map", None)
        reader = Reader(self.engram_ids, token_map, first.window_tokens, self.config.vocab_size)
        found = look_up(reader, ids, mask, position_ids, state, hash_ids)
        if not records_a_graph():
            # Tables on disk start reading the rows that the layers will look up.
            prefetch(rows for it in memories.values() for rows in it.wanted_rows(found.ids))
        return found

    @property
    def engram_layers(self) -> nn.ModuleList:
        """The decoder's list of layers."""
        return cast(nn.ModuleList, getattr(self, self.engram_layers_name))

    def _memory(self, layer_id: int) -> EngramModule:
        """Return a layer's memory, or the active one inside a wrapper, for its attributes."""
        memory = cast(Any, self.engram_layers[layer_id]).engram
        if isinstance(memory, EngramModule):
            return memory
        inside = (it for it in memory.modules() if isinstance(it, EngramModule))
        return cast(EngramModule, getattr(memory, "in_use", None) or next(inside))

    @property
    def engram_token_map(self) -> Tensor | None:
        """The compressed vocabulary, int32 ``[V]``: a buffer of the first layer with a memory."""
        return getattr(self._memory(self.engram_ids.addresses.layer_ids[0]), "token_map", None)


def refuse_continuous_batching() -> NoReturn:
    """Raise an error for rows with several requests.

    Raises:
        InputError: Always.
    """
    raise InputError(
        "Continuous batching (generate_batch) puts several requests into one row, which the memory "
        "cannot separate.",
        "Use generate(): it takes a batch of prompts of different lengths, padded on the left.",
    )


# Runs eagerly while a graph is recorded, so that callers see its error.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _refuse_cache_in_graph() -> None:
    raise InputError(
        "A graph that is exported or traced with a cache would lose the memory's past, which is "
        "kept in Python objects beside the cache.",
        "Export or trace calls without a cache (use_cache=False); torch.compile takes caches.",
    )

"""What happens in a call of a wired model: the decoder hashes ids, its layers add their memories.

Ids, mask and state travel with the call, as a keyword argument that the decoder passes to its
layers, so that threads and checkpointed recomputation see their own. Decoders that pass nothing on
(BLOOM) reach their layers through a context variable, of which every thread has its own.

Shapes: B sequences, T tokens, D hidden size, L layers with a memory, C columns.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engram.errors import InputError
from engram.hf import compat
from engram.hf.ids import MemoryIds
from engram.hf.packed import document_starts, tokens_since_start
from engram.hf.state import MemoryState, state_of
from engram.nn import EngramModule
from engram.nn.compat import records_a_graph
from engram.nn.disk import prefetch
from engram.nn.module import GatedTokens


@dataclass(frozen=True)
class Lookup:
    """What one call of the model tells its layers.

    Attributes:
        ids: Hash ids without offsets ``[B, T, L, C]``.
        keep: False at masked positions and at ids that the tokenizer does not have ``[B, T]``; None
            when there are none.
        state: The memory's past in the call's cache; None without a cache.
        since: Tokens since each token's document started ``[B, T]``; None where a row is one.
        before: Hash ids of the tokens before ``[B, <= W, L, C]``, where the state has forgotten the
            convolutions' windows.
    """

    ids: Tensor
    keep: Tensor | None
    state: MemoryState | None
    since: Tensor | None
    before: Tensor | None


_passed_beside: ContextVar[Lookup | None] = ContextVar("engram_lookup", default=None)


def forward_with_memory(base: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `forward` of a model with a memory.

    Its signature is the base's, which transformers and its Trainer look at.

    Args:
        base: The `forward` of the model's class without a memory.
    """
    name = compat.cache_name(base)

    @functools.wraps(base)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return base(self, *args, **compat.rename_cache(kwargs, name))

    return forward


class MemoryLayer(nn.Module):
    """Mixed into a decoder layer's class: adds the memory to the layer's input."""

    engram: EngramModule
    engram_layer_id: int

    def __call__(self, *args: Any, engram: Lookup | None = None, **kwargs: Any) -> Any:
        """Find what the decoder tells, before checkpointing takes hold of the arguments."""
        if engram is None and not torch.compiler.is_compiling():
            engram = _passed_beside.get()
        return super().__call__(*args, engram=engram, **kwargs)

    def forward(
        self, hidden_states: Tensor, *args: Any, engram: Lookup | None = None, **kwargs: Any
    ) -> Any:
        """Run the layer on its input ``[B, T, D]`` plus the memory, where it has one."""
        if engram is None:
            raise InputError(
                f"Layer {self.engram_layer_id} was called without its memory's ids.",
                "Call the whole model, not its layers. A model whose decoder passes no keywords to "
                "its layers, such as BLOOM, cannot be compiled.",
            )
        hidden_states = _read(self.engram, self.engram_layer_id, hidden_states, engram)
        return super().forward(hidden_states, *args, **kwargs)


class PlainLayer(nn.Module):
    """Mixed into the classes of other layers: what the decoder tells is not for them."""

    def forward(self, *args: Any, engram: Lookup | None = None, **kwargs: Any) -> Any:
        """Run the layer."""
        return super().forward(*args, **kwargs)


def _read(memory: EngramModule, layer_id: int, hidden_states: Tensor, lookup: Lookup) -> Tensor:
    state = lookup.state
    window: Tensor | GatedTokens | None = None
    if state is not None:
        window = state.windows.get(layer_id)
        if window is None and lookup.before is not None:
            gates: Any = state.gates[layer_id].last(lookup.before.shape[1])
            window = GatedTokens(lookup.before, gates)
    out, past = memory.add(
        hidden_states,
        lookup.ids,
        keep=_beside(lookup.keep, hidden_states),
        window=window,
        since=_beside(lookup.since, hidden_states),
        return_past=True,
    )
    if state is not None and past is not None:
        state.remember(layer_id, past)
    added: Tensor = out
    return added


def _beside(mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """Return a mask on the device of the layer, which may be another than the decoder's first."""
    return None if mask is None else mask.to(hidden_states.device)


class MemoryDecoder(nn.Module):
    """Mixed into a decoder's class: hashes the call's token ids and passes them to the layers."""

    engram_ids: MemoryIds
    engram_layers_name: str
    engram_positional: tuple[str, ...]
    engram_takes_keywords: bool
    engram_cache_name: str | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.engram_cache_name = compat.cache_name(super().forward)
        parameters = inspect.signature(super().forward).parameters
        cls.engram_positional = tuple(parameters)[2:]
        cls.engram_takes_keywords = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder. Takes what it took before, and `engram_input_ids` and `engram_mask`."""
        kwargs.update(zip(self.engram_positional, args, strict=False))
        compat.rename_cache(kwargs, self.engram_cache_name)
        token_ids = kwargs.pop("engram_input_ids", None)
        mask = kwargs.pop("engram_mask", None)
        token_ids = input_ids if token_ids is None else token_ids
        if token_ids is None:
            raise InputError(
                "The memory reads token ids, and the model was called with inputs_embeds alone.",
                "Pass the same tokens' ids as engram_input_ids=.",
            )
        if compat.runs_continuous_batching(self.config):
            raise InputError(
                "Continuous batching puts several requests into one row, and the memory cannot "
                "tell them apart.",
                "Use generate() without it.",
            )
        if mask is None:
            mask = kwargs.get("attention_mask")
            if mask is not None and getattr(mask, "ndim", None) != 2:
                raise InputError(
                    "The attention mask is not 2-D, and does not tell the memory which tokens are "
                    "padding.",
                    "Pass the 2-D mask [B, T] as engram_mask=, ones if nothing is padded.",
                )
        state = self._state(kwargs)
        lookup = self._look_up(token_ids, mask, kwargs.get("position_ids"), state)
        if self.engram_takes_keywords:
            kwargs["engram"] = lookup
        if torch.compiler.is_compiling():
            return super().forward(input_ids, **kwargs)
        before = _passed_beside.set(lookup)
        try:
            return super().forward(input_ids, **kwargs)
        finally:
            _passed_beside.reset(before)

    def _state(self, kwargs: dict[str, Any]) -> MemoryState | None:
        """Return the memory's state in the call's cache, made here if the decoder would make it."""
        checkpointing = self.training and getattr(self, "gradient_checkpointing", False)
        if checkpointing and torch.is_grad_enabled():
            return None
        config: Any = self.config
        name: Any = self.engram_cache_name
        past = kwargs.get(name)
        use_cache = kwargs.get("use_cache")
        if past is None:
            if not (getattr(config, "use_cache", False) if use_cache is None else use_cache):
                return None
            from transformers import DynamicCache

            past = kwargs[name] = DynamicCache(config=config)
        state = state_of(past, self.engram_ids.addresses.layer_ids)
        try:
            cached_tokens = int(past.get_seq_length())
        except ValueError:  # caches of recurrent layers alone do not count tokens
            return state
        state.follow(cached_tokens)
        return state

    def _look_up(
        self,
        ids: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
        state: MemoryState | None,
    ) -> Lookup:
        ids = ids.view(-1, ids.shape[-1])
        length, past, window = ids.shape[1], 0, 0
        seen = 0 if state is None else state.tokens.length
        keep = None if mask is None else _own_part(mask, seen, length)
        config: Any = self.config
        read, keep = self.engram_ids.readable(ids, keep, config.vocab_size)
        readable = keep
        addresses = self.engram_ids.addresses
        positions, starts = document_starts(addresses, position_ids, ids, keep, state)
        if state is not None:
            if not state.windows:
                window = min(seen, self._first_memory.window_tokens)
            # What is hashed again of the past sees less than it saw, at first: that is dropped.
            past = min(seen, window + addresses.max_ngram_size - 1)
            state.append(read, keep, starts, positions)
            read, readable, starts = state.last(past + length)
        hashed = self.engram_ids(read, self.engram_token_map, readable, starts)
        own = hashed[:, past:]
        self._prefetch(own)
        if state is not None:
            starts = state.starts.last(state.starts.length)
        return Lookup(
            ids=own,
            keep=keep,
            state=state,
            since=None if starts is None else tokens_since_start(starts)[:, -length:],
            before=hashed[:, past - window : past] if window else None,
        )

    def _prefetch(self, hashed: Tensor) -> None:
        """Have tables on disk start to read what the layers are about to look up."""
        if not records_a_graph():
            layers, layer_ids = self.engram_layers, sorted(self.engram_ids.addresses.layer_ids)
            modules: Any = [layers[layer_id].engram for layer_id in layer_ids]
            prefetch(pair for module in modules for pair in module.wanted_rows(hashed))

    @property
    def engram_layers(self) -> nn.ModuleList:
        """The decoder's list of layers."""
        layers: nn.ModuleList = self._modules[self.engram_layers_name]  # type: ignore[assignment]
        return layers

    @property
    def _first_memory(self) -> EngramModule:
        layer: Any = self.engram_layers[self.engram_ids.addresses.layer_ids[0]]
        memory: EngramModule = layer.engram
        return memory

    @property
    def engram_token_map(self) -> Tensor | None:
        """The compressed vocabulary, int32 ``[V]``: a buffer of the first layer with a memory."""
        return self._first_memory._buffers.get("token_map")


def _own_part(mask: Tensor, seen: int, length: int) -> Tensor | None:
    """Return a mask's columns for the tokens of this call, which follow `seen` others.

    None where they mask nothing.
    """
    if mask.shape[1] < seen + length or (seen == 0 and mask.shape[1] == 0):
        raise InputError(
            f"The attention mask covers {mask.shape[1]} tokens, and the call ends at token "
            f"{seen + length}.",
            "Give the mask of all tokens so far, the cached ones included.",
            mask_tokens=mask.shape[1],
            tokens=seen + length,
        )
    own = mask[:, seen : seen + length].bool()
    # Where looking costs nothing, a mask that masks nothing is none.
    if own.device.type == "cpu" and not records_a_graph() and bool(own.all()):
        return None
    return own

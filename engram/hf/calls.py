"""What happens in a call of a wired model: the decoder hashes ids, its layers add their memories.

Ids, mask and state travel with the call, as a keyword argument that the decoder passes to its
layers, so that threads and checkpointed recomputation see their own. Decoders that pass nothing on
(BLOOM) reach their layers through a context variable, of which every thread has its own.

Shapes: B sequences, T tokens, D hidden size, L layers with a memory, C columns.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engram.errors import InputError
from engram.hf.ids import MemoryIds
from engram.hf.state import MemoryState, state_of
from engram.nn import EngramModule
from engram.nn.disk import prefetch


@dataclass(frozen=True)
class Lookup:
    """What one call of the model tells its layers.

    Attributes:
        ids: Hash ids without offsets ``[B, T, L, C]``.
        keep: False at masked positions ``[B, T]``; None when there are none.
        state: The memory's past in the call's cache; None without a cache.
        since: Tokens since each token's document started ``[B, T]``; None where a row is one.
    """

    ids: Tensor
    keep: Tensor | None
    state: MemoryState | None
    since: Tensor | None


_passed_beside: ContextVar[Lookup | None] = ContextVar("engram_lookup", default=None)


class MemoryLayer(nn.Module):
    """Mixed into a decoder layer's class: adds the memory to the layer's input."""

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
        memory = self._modules.get("engram")
        if isinstance(memory, EngramModule):
            if engram is None:
                raise InputError(
                    f"Layer {self.engram_layer_id} was called without its memory's ids.",
                    "Call the whole model, not its layers.",
                )
            hidden_states = _read(memory, self.engram_layer_id, hidden_states, engram)
        return super().forward(hidden_states, *args, **kwargs)


def _read(memory: EngramModule, layer_id: int, hidden_states: Tensor, lookup: Lookup) -> Tensor:
    ids = lookup.ids[:, :, memory.slot]
    record = None if lookup.state is None else lookup.state.windows[layer_id]
    window = None if record is None else record.last(memory.window_tokens)
    out, conv_inputs = memory.add_step(
        hidden_states, ids, keep=lookup.keep, window=window, since=lookup.since
    )
    if record is not None and conv_inputs is not None and memory.window_tokens:
        record.append(conv_inputs)
    return out


class MemoryDecoder(nn.Module):
    """Mixed into a decoder's class: hashes the call's token ids and passes them to the layers."""

    engram_ids: MemoryIds
    engram_layers_name: str
    engram_positional: tuple[str, ...]
    engram_takes_keywords: bool

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder. Takes what it took before, and `engram_input_ids` and `engram_mask`."""
        kwargs.update(zip(self.engram_positional, args, strict=False))
        token_ids = kwargs.pop("engram_input_ids", None)
        mask = kwargs.pop("engram_mask", None)
        token_ids = input_ids if token_ids is None else token_ids
        if token_ids is None:
            raise InputError(
                "The memory reads token ids, and the model was called with inputs_embeds alone.",
                "Pass the same tokens' ids as engram_input_ids=.",
            )
        config: Any = self.config
        if str(getattr(config, "_attn_implementation", "")).startswith("paged"):
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
        if self.training and getattr(self, "gradient_checkpointing", False):
            return None
        config: Any = self.config
        past = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if past is None:
            if not (getattr(config, "use_cache", False) if use_cache is None else use_cache):
                return None
            from transformers import DynamicCache

            past = kwargs["past_key_values"] = DynamicCache(config=config)
        state = state_of(past, self.engram_ids.addresses.layer_ids)
        try:
            cached_tokens = int(past.get_seq_length())
        except ValueError:  # caches of recurrent layers alone do not count tokens
            return state
        state.check_length(cached_tokens)
        return state

    def _look_up(
        self,
        ids: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
        state: MemoryState | None,
    ) -> Lookup:
        ids = ids.view(-1, ids.shape[-1])
        length = ids.shape[1]
        seen = 0 if state is None else state.tokens.length
        keep = None if mask is None else _own_part(mask, seen, length).bool()
        starts = document_starts(position_ids, ids, state)
        since = tokens_since_start(starts, state, ids)
        hashed = self.engram_ids(ids, self.engram_token_map, keep, starts, state)
        self._prefetch(hashed)
        return Lookup(hashed, keep, state, since)

    def _prefetch(self, hashed: Tensor) -> None:
        """Have tables on disk start to read what the layers are about to look up."""
        if not torch.compiler.is_compiling():
            layers, layer_ids = self.engram_layers, sorted(self.engram_ids.addresses.layer_ids)
            modules: Any = [layers[layer_id].engram for layer_id in layer_ids]
            prefetch(pair for module in modules for pair in module.wanted_rows(hashed))

    @property
    def engram_layers(self) -> nn.ModuleList:
        """The decoder's list of layers."""
        layers: nn.ModuleList = self._modules[self.engram_layers_name]  # type: ignore[assignment]
        return layers

    @property
    def engram_token_map(self) -> Tensor | None:
        """The compressed vocabulary, int32 ``[V]``: a buffer of the first layer with a memory."""
        first: Any = self.engram_layers[self.engram_ids.addresses.layer_ids[0]]
        token_map: Tensor | None = first.engram._buffers.get("token_map")
        return token_map


def _own_part(mask: Tensor, seen: int, length: int) -> Tensor:
    """Return a mask's columns for the tokens of this call, which follow `seen` others."""
    if mask.shape[1] < seen + length or (seen == 0 and mask.shape[1] == 0):
        raise InputError(
            f"The attention mask covers {mask.shape[1]} tokens, and the call ends at token "
            f"{seen + length}.",
            "Give the mask of all tokens so far, the cached ones included.",
            mask_tokens=mask.shape[1],
            tokens=seen + length,
        )
    return mask[:, seen : seen + length]


def document_starts(
    position_ids: Tensor | None, ids: Tensor, state: MemoryState | None = None
) -> Tensor | None:
    """Tell where packed documents start: where position ids do not grow.

    Args:
        position_ids: Positions ``[B, T]`` or ``[1, T]``; None when the call has none.
        ids: Token ids ``[B, T]``.
        state: The past, whose last positions the first ones are compared with; this call's are
            added to it.

    Returns:
        True at the first token of every document but a row's first ``[B, T]``; None when there
        is none.
    """
    known = position_ids is not None and position_ids.ndim == 2
    positions = position_ids.expand_as(ids) if known else torch.full_like(ids, -1)  # type: ignore[union-attr]
    before = None
    if state is not None:
        before = state.positions.last(1)
        state.positions.append(positions)
    if not known or (before is None and ids.shape[1] == 1):
        return None
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 1:] = positions[:, 1:] <= positions[:, :-1]
    if before is not None:
        starts[:, 0] = positions[:, 0] <= before[:, 0]
    # A compiled graph cannot look; it computes what a row of several documents takes.
    return starts if torch.compiler.is_compiling() or bool(starts.any()) else None


def tokens_since_start(
    starts: Tensor | None, state: MemoryState | None, ids: Tensor
) -> Tensor | None:
    """Count the tokens since each token's document started.

    Args:
        starts: What `document_starts` returned for this call ``[B, T]``.
        state: The past, whose rows may have held several documents.
        ids: Token ids ``[B, T]``.

    Returns:
        Counts ``[B, T]``, large in a row's first document; None where every row is one document.
    """
    if state is not None and starts is not None:
        state.has_starts = True
    if starts is None and (state is None or not state.has_starts):
        return None
    joined = torch.zeros_like(ids, dtype=torch.bool) if starts is None else starts
    past = None if state is None else state.starts.last(state.starts.length)
    if past is not None:
        joined = torch.cat([past, joined], dim=1)
    positions = torch.arange(joined.shape[1], device=ids.device)
    far = torch.iinfo(positions.dtype).max // 2
    last_start = torch.where(joined, positions, -far).cummax(dim=1).values
    return (positions - last_start)[:, -ids.shape[1] :]

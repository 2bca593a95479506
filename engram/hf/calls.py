"""What happens in a call of a wired model: the decoder hashes ids, its layers add their memories.

Ids, mask and state travel with the call, as a keyword argument that the decoder passes to its
layers, so that threads and checkpointed recomputation see their own. Decoders that pass nothing on
(BLOOM) reach their layers through a context variable, of which every thread has its own.

Shapes: B sequences, T tokens, D hidden size, L layers with a memory, C columns.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from engram.errors import InputError
from engram.hf import compat
from engram.hf.ids import MemoryIds
from engram.hf.packed import document_starts, tokens_since_start
from engram.hf.state import MemoryState, Past, Record, both, give_state, state_of
from engram.nn import EngramModule
from engram.nn.compat import records_a_graph, records_a_lasting_graph
from engram.nn.disk import prefetch
from engram.nn.gaps import closed_order, gaps_in, in_time, reorder
from engram.nn.module import GatedTokens, memory_in


@dataclass(frozen=True)
class Before:
    """The last tokens before a call, S at most the window W of the convolutions.

    Attributes:
        ids: Hash ids without offsets ``[B, S, L, C]``.
        keep: False at masked ones ``[B, S]``; None when there are none.
        places: Their places in the text ``[B, S]``; None where they are its last.
    """

    ids: Tensor
    keep: Tensor | None
    places: Tensor | None

    def with_gates(self, record: Record) -> GatedTokens:
        """Add a layer's gates, which its state has recorded."""
        gates = record.last(self.ids.shape[1]) if self.places is None else record.at(self.places)
        assert gates is not None
        if self.keep is not None:
            gates = gates.masked_fill(~self.keep.to(gates.device)[:, :, None], 0)
        return GatedTokens(self.ids, gates)


@dataclass(frozen=True)
class Lookup:
    """What one call of the model tells its layers.

    Attributes:
        ids: Hash ids without offsets ``[B, T, L, C]``.
        keep: False at masked positions and at ids that the tokenizer does not have ``[B, T]``; None
            when there are none.
        state: The memory's past in the call's cache; None without a cache.
        since: Tokens since each token's document started ``[B, T]``; None where a row is one.
        before: The tokens before, where the state has forgotten the convolutions' windows.
    """

    ids: Tensor
    keep: Tensor | None
    state: MemoryState | None
    since: Tensor | None
    before: Before | None


_passed_beside: ContextVar[Lookup | None] = ContextVar("engram_lookup", default=None)

# Arguments that a model with a memory takes beside those of its base.
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
    takes_keywords, positional = _takes_keywords(signature), tuple(signature.parameters)[1:]

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
            if not takes_keywords:
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
    place = len(others) - 1 if takes_keywords else len(others)
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


def _takes_keywords(signature: inspect.Signature) -> bool:
    return any(it.kind is it.VAR_KEYWORD for it in signature.parameters.values())


class MemoryLayer(nn.Module):
    """Mixed into a decoder layer's class: adds the memory to the layer's input."""

    engram: nn.Module  # an EngramModule, or what wraps one
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


def _read(memory: nn.Module, layer_id: int, hidden_states: Tensor, lookup: Lookup) -> Tensor:
    state = lookup.state
    window: Tensor | GatedTokens | None = None
    if state is not None:
        window = state.windows.get(layer_id)
        if window is None and lookup.before is not None:
            window = lookup.before.with_gates(state.gates[layer_id])
    # A call, which every wrapper hands on to the memory that is in use.
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
        signature = inspect.signature(super().forward)
        cls.engram_positional = tuple(signature.parameters)[2:]
        cls.engram_takes_keywords = _takes_keywords(signature)

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder.

        Args:
            input_ids: Token ids ``[B, T]``, or None with `inputs_embeds`.
            *args: As the decoder takes them.
            **kwargs: As the decoder takes them; and `MEMORY_ARGUMENTS`: the ids of embeddings that
                are given in their place ``[B, T]``, the 2-D mask where `attention_mask` is another
                ``[B, past + T]``, and hash ids without offsets of the tokens ``[B, T, L, C]``, used
                in place of those that are computed here.

        Raises:
            InputError: The memory's ids cannot be known, or fit neither tokens nor tables.
        """
        kwargs.update(zip(self.engram_positional, args, strict=False))
        compat.rename_cache(kwargs, self.engram_cache_name)
        told = {} if torch.compiler.is_compiling() else _told.get() or {}
        told |= {key: kwargs.pop(key) for key in MEMORY_ARGUMENTS if key in kwargs}
        token_ids = told.get("engram_input_ids")
        token_ids = input_ids if token_ids is None else token_ids
        if token_ids is None:
            raise InputError(
                "The memory reads token ids, and the model was called with inputs_embeds alone.",
                "Pass the same tokens' ids as engram_input_ids=.",
            )
        cache = kwargs.get(self.engram_cache_name or "")
        if compat.is_paged(cache):
            refuse_continuous_batching()
        if "engram_mask" in told:
            mask = told["engram_mask"]
        else:
            mask = kwargs.get("attention_mask")
            if mask is not None and getattr(mask, "ndim", None) != 2:
                raise InputError(
                    "The attention mask is not 2-D, and does not tell the memory which tokens are "
                    "padding.",
                    "Pass the 2-D mask [B, T] as engram_mask=, ones if nothing is padded.",
                )
        state = self._state(cache, kwargs.get("use_cache"))
        position_ids, hash_ids = kwargs.get("position_ids"), told.get("hash_ids")
        lookup = self._look_up(token_ids, mask, position_ids, state, hash_ids)
        if self.engram_takes_keywords:
            kwargs["engram"] = lookup
        if torch.compiler.is_compiling():
            outputs = super().forward(input_ids, **kwargs)
        else:
            before = _passed_beside.set(lookup)
            try:
                outputs = super().forward(input_ids, **kwargs)
            finally:
                _passed_beside.reset(before)
        if cache is None and state is not None:
            made = compat.cache_of(outputs)
            if made is not None:
                give_state(made, state)
        return outputs

    def _state(self, cache: Any, use_cache: bool | None) -> MemoryState | None:
        """Return the memory's state in the call's cache, or a new one for a cache to be made."""
        checkpointing = self.training and getattr(self, "gradient_checkpointing", False)
        if checkpointing and torch.is_grad_enabled():
            return None
        if records_a_lasting_graph():
            if cache is not None:
                _refuse_cache_in_graph()
            return None
        layer_ids = self.engram_ids.addresses.layer_ids
        if cache is None:
            config: Any = self.config
            uses = getattr(config, "use_cache", False) if use_cache is None else use_cache
            return MemoryState(layer_ids) if uses else None
        state = state_of(cache, layer_ids)
        try:
            cached_tokens = int(cache.get_seq_length())
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
        hash_ids: Tensor | None = None,
    ) -> Lookup:
        ids = ids.view(-1, ids.shape[-1])
        length, seen = ids.shape[1], 0 if state is None else state.tokens.length
        shown = None if mask is None else _own_part(mask, seen, length)
        config: Any = self.config
        ids, known = self.engram_ids.readable(ids, config.vocab_size)
        keep = both(shown, known)
        addresses, past, before, last = self.engram_ids.addresses, None, None, None
        if state is not None:
            if mask is not None and seen and not records_a_graph():
                state.mask_again(mask[:, :seen].bool())
            past = state.last(addresses.max_ngram_size - 1, skip_masked=self._closes_gaps)
            before = None if state.windows else self._before(state)
            last = state.last(1, skip_masked=True)
        positions, starts = document_starts(addresses, position_ids, ids, keep, last)
        if hash_ids is None:
            hashed = self._hash(ids, keep, starts, past)
        else:
            hashed = self.engram_ids.given(hash_ids, ids)
        self._prefetch(hashed)
        counted = keep
        if state is not None:
            state.append(ids, shown, known, starts, positions)
            starts, counted = state.starts.last(state.starts.length), state.kept()
        since = None
        if starts is not None:
            counted = counted if self._closes_gaps else None
            since = tokens_since_start(starts, counted)[:, -length:]
        return Lookup(ids=hashed, keep=keep, state=state, since=since, before=before)

    @property
    def _closes_gaps(self) -> bool:
        return self.engram_ids.addresses.layout.masked == "absent"

    def _hash(
        self, ids: Tensor, keep: Tensor | None, starts: Tensor | None, past: Past | None
    ) -> Tensor:
        """Hash the ids of a call ``[B, T]`` after those of the past."""
        gaps = gaps_in(keep, past is not None) if self._closes_gaps else None
        length = ids.shape[1]
        if past is not None:
            keep = _joined((past.keep, past.tokens), (keep, ids), default=True)
            starts = _joined((past.starts, past.tokens), (starts, ids), default=False)
            ids = torch.cat([past.tokens, ids], dim=1)
        if gaps is not None and keep is not None:
            order = closed_order(keep)
            ids, keep = reorder(ids, order), reorder(keep, order)
            starts = None if starts is None else reorder(starts, order)
        hashed = self.engram_ids(ids, self.engram_token_map, keep, starts)[:, -length:]
        return hashed if gaps is None else reorder(hashed, in_time(closed_order(gaps)))

    def _before(self, state: MemoryState) -> Before | None:
        """Hash the tokens again from which the convolutions' windows follow."""
        window, orders = self._first_memory.window_tokens, self.engram_ids.addresses.max_ngram_size
        past = None
        if window:
            past = state.last(window + orders - 1, skip_masked=self._closes_gaps)
        if past is None:
            return None
        # The first of these tokens see less than they saw: they are not among the last.
        hashed = self.engram_ids(past.tokens, self.engram_token_map, past.keep, past.starts)
        cut = slice(-window, None)
        keep, places = past.keep, past.places
        return Before(
            hashed[:, cut],
            None if keep is None else keep[:, cut],
            None if places is None else places[:, cut],
        )

    def _prefetch(self, hashed: Tensor) -> None:
        """Have tables on disk start to read what the layers are about to look up."""
        if not records_a_graph():
            layer_ids = sorted(self.engram_ids.addresses.layer_ids)
            modules = [self._memory(layer_id) for layer_id in layer_ids]
            prefetch(pair for module in modules for pair in module.wanted_rows(hashed))

    @property
    def engram_layers(self) -> nn.ModuleList:
        """The decoder's list of layers."""
        layers: nn.ModuleList = self._modules[self.engram_layers_name]  # type: ignore[assignment]
        return layers

    @property
    def _first_memory(self) -> EngramModule:
        return self._memory(self.engram_ids.addresses.layer_ids[0])

    def _memory(self, layer_id: int) -> EngramModule:
        layer: Any = self.engram_layers[layer_id]
        return memory_in(layer.engram)

    @property
    def engram_token_map(self) -> Tensor | None:
        """The compressed vocabulary, int32 ``[V]``: a buffer of the first layer with a memory."""
        return self._first_memory._buffers.get("token_map")


def refuse_continuous_batching() -> NoReturn:
    """Refuse rows that hold several requests.

    Raises:
        InputError: Always.
    """
    raise InputError(
        "Continuous batching (generate_batch) puts several requests into one row, and the memory "
        "cannot tell them apart.",
        "Use generate(): it takes prompts of several lengths, padded on the left, as one batch.",
    )


# Called for real while a graph is recorded, so that its error is the one that callers see.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _refuse_cache_in_graph() -> None:
    raise InputError(
        "A graph that is exported or traced with a cache would forget the memory's past, which "
        "lives in Python objects beside the cache.",
        "Export or trace calls without a cache (use_cache=False); torch.compile takes caches.",
    )


def _joined(*parts: tuple[Tensor | None, Tensor], default: bool) -> Tensor | None:
    """Join flags along time, each given with the ids that it is for; None is the default."""
    if all(flags is None for flags, _ in parts):
        return None
    return torch.cat(
        [
            torch.full_like(ids, default, dtype=torch.bool) if flags is None else flags.bool()
            for flags, ids in parts
        ],
        dim=1,
    )


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

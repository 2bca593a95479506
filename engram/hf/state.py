"""The memory's past between decoding steps, stored in the model's own cache object.

A cache that passes through an Engram model gets a `MemoryState` and a class that carries it along
when the cache is reset, cropped, reordered or repeated, as beam search and assisted decoding do.

Shapes: B sequences, T tokens of a call, M streams, W window of the convolution, P its channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from engram.errors import InputError, MismatchError
from engram.hf.classes import mixed
from engram.hf.compat import self_attention_cache
from engram.nn.gaps import masks_some, reorder

# A buffer grows by at least this many tokens, or by half of its size if that is more.
_GROWTH_TOKENS = 256


class Record:
    """The past of one tensor along time, which is appended to, cropped and reordered like keys.

    Args:
        default: Value of steps that are appended as None; while all are None, nothing is stored.
    """

    def __init__(self, default: int = 0) -> None:
        self._default = default
        self.buffer: Tensor | None = None
        self.length = 0

    def append(self, new: Tensor | None, like: Tensor) -> None:
        """Append `new` ``[B, T, ...]``.

        Args:
            new: The steps; None for the default.
            like: A tensor ``[B, T, ...]`` on their device.
        """
        end = self.length + like.shape[1]
        if new is None and self.buffer is not None:
            shape = (*like.shape[:2], *self.buffer.shape[2:])
            new = self.buffer.new_full(shape, self._default)
        if new is not None:
            if self.buffer is None and self.length:
                past = (like.shape[0], self.length, *new.shape[2:])
                self.buffer = new.new_full(past, self._default)
            self._write(new, end)
        self.length = end

    def replace(self, steps: Tensor) -> None:
        """Replace all steps ``[B, T, ...]`` so far."""
        self.buffer = steps.clone()

    def _write(self, new: Tensor, end: int) -> None:
        if self.buffer is None:
            # A copy: the caller may write into its own tensor.
            self.buffer = new.clone()
        elif torch.is_grad_enabled():
            # With gradients nothing may be written in place: the backward pass needs earlier steps.
            self.buffer = torch.cat([self.buffer[:, : self.length], new], dim=1)
        else:
            # Tensors made in inference mode may not be written in place outside of it.
            frozen = self.buffer.is_inference() and not torch.is_inference_mode_enabled()
            if frozen or end > self.buffer.shape[1]:
                room = max(_GROWTH_TOKENS, end // 2)
                grown = new.new_empty((new.shape[0], end + room, *new.shape[2:]))
                grown[:, : self.length] = self.buffer[:, : self.length]
                self.buffer = grown
            self.buffer[:, self.length : end] = new

    def last(self, count: int, places: Tensor | None = None) -> Tensor | None:
        """Return the last `count` steps, or fewer if there are fewer; None if all are default.

        Args:
            count: Number of steps.
            places: Positions of the steps to return instead ``[B, S]``; 0 at negative ones.
        """
        if self.buffer is None:
            return None
        start = max(0, self.length - count) if places is None else 0
        steps = self.buffer[:, start : self.length]
        # Tensors made in inference mode cannot take part in gradients, but copies can.
        if steps.is_inference() and not torch.is_inference_mode_enabled():
            steps = steps.clone()
        if places is None:
            return steps
        places = places.to(steps.device)
        found = reorder(steps, places.clamp_min(0))
        return found.masked_fill((places < 0).view(*places.shape, *[1] * (found.ndim - 2)), 0)

    def crop(self, length: int) -> None:
        """Drop all but the first `length` steps."""
        self.length = min(self.length, length)
        if not self.length:
            self.buffer = None

    def map_batch(self, select: Callable[[Tensor], Tensor]) -> None:
        """Replace the batch by `select` applied to it."""
        if self.buffer is not None:
            self.buffer = select(self.buffer[:, : self.length])


@dataclass(frozen=True)
class Past:
    """The last tokens of a text that a memory reads, in S slots.

    Attributes:
        tokens: Token ids ``[B, S]``.
        keep: False at slots without a token, or with a masked one ``[B, S]``; None if there are
            none.
        starts: True where a document starts ``[B, S]``; None if none does.
        positions: Position ids ``[B, S]``, -1 where there are none; None if there are none at all.
        places: Positions of the tokens in the text ``[B, S]``, -1 where there is no token; None if
            they are its last tokens.
    """

    tokens: Tensor
    keep: Tensor | None
    starts: Tensor | None
    positions: Tensor | None
    places: Tensor | None


class MemoryState:
    """The past of one model's memory.

    The windows are all that the next tokens need. They are dropped when tokens are cropped, and
    then recomputed from ids and gates, which take much less memory.

    Attributes:
        tokens: Token ids so far ``[B, T]``.
        mask: False or 0 at tokens that the caller masked ``[B, T]``.
        known: False or 0 at tokens that the memory's tokenizer does not have ``[B, T]``.
        starts: True at tokens that started a document ``[B, T]``.
        positions: Their position ids ``[B, T]``; -1 where the call had none.
        hash_ids: Hash ids given with them ``[B, T, L, C]``; -1 where they were computed here.
        gates: Gates of each layer so far ``[B, T, M]``, by layer id.
        windows: Inputs of each layer's convolution at the last W tokens ``[B, W, P]``.
    """

    def __init__(self, layer_ids: list[int]) -> None:
        self.tokens, self.starts, self.positions = Record(), Record(default=0), Record(default=-1)
        self.mask, self.known, self.hash_ids = Record(default=1), Record(default=1), Record(-1)
        self._by_token = (
            *(self.tokens, self.mask, self.known),
            *(self.starts, self.positions, self.hash_ids),
        )
        self.gates = {layer_id: Record() for layer_id in layer_ids}
        self.windows: dict[int, Tensor] = {}

    def append(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        known: Tensor | None,
        starts: Tensor | None,
        positions: Tensor | None,
        hash_ids: Tensor | None,
    ) -> None:
        """Append the tokens of a call ``[B, T]``."""
        steps = (tokens, mask, known, starts, positions, hash_ids)
        for record, new in zip(self._by_token, steps, strict=True):
            record.append(new, tokens)

    def kept(self, count: int) -> Tensor | None:
        """Return a mask of those of the last `count` tokens that are read; None if all are."""
        return both(self.mask.last(count), self.known.last(count))

    def mask_again(self, mask: Tensor) -> bool:
        """Update the mask if the caller masks other tokens of the past than before.

        Args:
            mask: Mask of the tokens so far ``[B, T]``.

        Returns:
            Whether the mask has changed, so that document starts must be found again.

        Raises:
            InputError: It unmasks tokens that were masked when they were read: their contribution
                to the hidden states is not in the cache.
        """
        before = self.mask.last(self.tokens.length)
        if bool(mask.all()) if before is None else torch.equal(before.to(mask.device), mask):
            return False
        if before is not None and bool((mask & ~before.to(mask.device)).any()):
            raise InputError(
                "The attention mask unmasks cached tokens that were masked when they were read.",
                "Read them again: start with an empty cache.",
            )
        self.mask.replace(mask)
        self.windows.clear()
        return True

    def last(self, count: int, *, skip_masked: bool) -> Past | None:
        """Return the last `count` tokens, or fewer if there are fewer; None if there are none.

        Args:
            count: Number of slots S.
            skip_masked: Whether to return the last unmasked tokens.
        """
        count = min(count, self.tokens.length)
        tokens = self.tokens.last(count)
        if tokens is None or not count:
            return None
        keep = self.kept(count)
        places = None
        if skip_masked and masks_some(keep):
            kept = cast(Tensor, self.kept(self.tokens.length))
            places = torch.arange(kept.shape[1], device=kept.device).where(kept, -1)
            places = places.topk(count, dim=1).values.flip(1)  # by time
            tokens, keep = cast(Tensor, self.tokens.last(count, places)), places >= 0
        starts, positions = self.starts.last(count, places), self.positions.last(count, places)
        return Past(tokens, keep, starts, positions, places)

    def follow(self, cached_tokens: int) -> None:
        """Drop the tokens that are not in the cache, such as those of a failed call.

        Raises:
            MismatchError: The cache has more tokens: other models, or calls without the memory,
                have filled it.
        """
        seen = self.tokens.length
        if seen < cached_tokens:
            raise MismatchError(
                f"The cache holds {cached_tokens} tokens, but the memory has seen only {seen}.",
                "Fill the cache with the attached model from the first token on.",
                cached_tokens=cached_tokens,
                memory_tokens=seen,
            )
        if seen > cached_tokens:
            self.crop(seen - cached_tokens)

    def crop(self, tokens: int) -> None:
        """Drop the last `tokens` positions."""
        kept = max(0, self.tokens.length - tokens)
        if tokens > 0:
            self.windows.clear()
        for record in self._records():
            record.crop(kept)

    def map_batch(self, select: Callable[[Tensor], Tensor]) -> None:
        """Replace the batch of all tensors by `select` applied to it."""
        self.windows = {layer_id: select(window) for layer_id, window in self.windows.items()}
        for record in self._records():
            record.map_batch(select)

    def _records(self) -> list[Record]:
        return [*self._by_token, *self.gates.values()]


def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Combine two masks; None masks nothing."""
    if one is None or other is None:
        return other if one is None else one
    return one & other.to(one.device)


def state_of(cache: Any, layer_ids: list[int]) -> MemoryState:
    """Return the memory's state in a cache; create it if there is none.

    Args:
        cache: Any of transformers' caches.
        layer_ids: Layers that read the memory.
    """
    holder = self_attention_cache(cache)
    if not isinstance(holder, _CarriesMemory):
        give_state(holder, MemoryState(layer_ids))
    state: MemoryState = holder.engram
    if list(state.gates) != layer_ids:
        raise MismatchError(
            f"The cache holds the past of a memory in layers {list(state.gates)}; this model has "
            f"its memory in layers {layer_ids}.",
            "Fill the cache with the model that continues with it.",
            cache_layer_ids=list(state.gates),
            layer_ids=layer_ids,
        )
    return state


def give_state(cache: Any, state: MemoryState) -> None:
    """Attach a state to a cache."""
    holder = self_attention_cache(cache)
    if not isinstance(holder, _CarriesMemory):
        holder.__class__ = mixed(_CarriesMemory, holder.__class__)
    holder.engram = state


class _CarriesMemory:
    """Mixin for a cache's class that applies every operation to the memory's state as well."""

    engram: MemoryState

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self.engram = MemoryState(list(self.engram.gates))

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)  # type: ignore[misc]
        self.engram.crop(-tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.engram.map_batch(lambda past: past.index_select(0, beam_idx.to(past.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.engram.map_batch(lambda past: past.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.engram.map_batch(lambda past: past[indices.to(past.device)])

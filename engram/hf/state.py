"""What the memory remembers between decoding steps, kept in the model's own cache object.

A cache that passes through an Engram model gets a `MemoryState` and a class that carries it along
when the cache is reset, cropped, reordered or repeated, as beam search and assisted decoding do.

Shapes: B sequences, T tokens of a call, N highest n-gram order, W window of the convolution.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from engram.errors import MismatchError

# A buffer grows by this many tokens at least, and by half of itself when it is larger.
_GROWTH_TOKENS = 256


class Record:
    """The past of one tensor along time: appended to, cropped and reordered like a cache's keys."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.length = 0

    def append(self, new: Tensor) -> None:
        """Remember `new` ``[B, T, ...]`` behind what is there."""
        end = self.length + new.shape[1]
        if self.buffer is None:
            # A copy: what was given is the caller's, who may write into it.
            self.buffer = new.clone()
        elif torch.is_grad_enabled():
            # With gradients nothing may be written in place: earlier steps are still needed.
            self.buffer = torch.cat([self._past(), new], dim=1)
        else:
            # Nor may what was made in inference mode, once outside of it.
            frozen = self.buffer.is_inference() and not torch.is_inference_mode_enabled()
            if frozen or end > self.buffer.shape[1]:
                room = max(_GROWTH_TOKENS, end // 2)
                grown = new.new_empty((new.shape[0], end + room, *new.shape[2:]))
                grown[:, : self.length] = self._past()
                self.buffer = grown
            self.buffer[:, self.length : end] = new
        self.length = end

    def last(self, count: int) -> Tensor | None:
        """Return the last `count` steps or the fewer that there are; None when there are none."""
        if self.buffer is None or self.length == 0 or count == 0:
            return None
        return self.buffer[:, max(0, self.length - count) : self.length]

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` steps."""
        self.length = max(0, self.length - tokens)

    def map_batch(self, select: Any) -> None:
        """Replace the batch by `select` of it."""
        if self.buffer is not None:
            self.buffer = select(self._past())

    def _past(self) -> Tensor:
        assert self.buffer is not None
        return self.buffer[:, : self.length]


class MemoryState:
    """The past of one model's memory.

    Attributes:
        tokens: Token ids so far ``[B, T]``.
        keep: Which of them were not masked ``[B, T]``.
        starts: Which of them started a document ``[B, T]``.
        positions: Their position ids ``[B, T]``; -1 where the call had none.
        windows: Inputs of each layer's convolution so far ``[B, T, M * D]``, by layer id.
        has_starts: Whether a row may have held several documents.
    """

    def __init__(self, layer_ids: list[int]) -> None:
        self.tokens, self.keep, self.starts = Record(), Record(), Record()
        self.positions = Record()
        self.windows = {layer_id: Record() for layer_id in layer_ids}
        self.has_starts = False

    def check_length(self, cached_tokens: int) -> None:
        """Compare with what the cache holds.

        Raises:
            MismatchError: Other models or calls without the memory have filled the cache.
        """
        if self.tokens.length != cached_tokens:
            raise MismatchError(
                f"The cache holds {cached_tokens} tokens, of which the memory saw "
                f"{self.tokens.length}.",
                "Fill a cache with the attached model from its first token on.",
                cached_tokens=cached_tokens,
                memory_tokens=self.tokens.length,
            )

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` positions."""
        for record in self._records():
            record.crop(tokens)

    def map_batch(self, select: Any) -> None:
        """Replace the batch of every record by `select` of it."""
        for record in self._records():
            record.map_batch(select)

    def _records(self) -> list[Record]:
        tokens = [self.tokens, self.keep, self.starts, self.positions]
        return [*tokens, *self.windows.values()]


def state_of(past_key_values: Any, layer_ids: list[int]) -> MemoryState:
    """Return the memory's state in a cache, giving it one when it has none.

    Args:
        past_key_values: Any of transformers' caches.
        layer_ids: Layers that read the memory.
    """
    # Encoder-decoder caches hold the decoder's own one inside.
    holder = getattr(past_key_values, "self_attention_cache", past_key_values)
    if not isinstance(holder, _CarriesMemory):
        holder.__class__ = _carrying(holder.__class__)
        holder.engram = MemoryState(layer_ids)
    state: MemoryState = holder.engram
    return state


class _CarriesMemory:
    """Mixed into a cache's class: what happens to the cache happens to the memory's state."""

    engram: MemoryState

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self.engram = MemoryState(list(self.engram.windows))

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


@cache
def _carrying(base: Any) -> Any:
    return type(base.__name__, (_CarriesMemory, base), {"__module__": __name__})

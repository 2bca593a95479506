"""What the memory remembers between decoding steps, kept in the model's own cache object.

A cache that passes through an Engram model gets a `MemoryState` and a class that carries it along
when the cache is reset, cropped, reordered or repeated, as beam search and assisted decoding do.

Shapes: B sequences, T tokens of a call, M streams, W window of the convolution, P its channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engram.errors import MismatchError
from engram.hf.classes import mixed
from engram.hf.compat import self_attention_cache
from engram.nn.functional import ConvPast

# A buffer grows by this many tokens at least, and by half of itself when it is larger.
_GROWTH_TOKENS = 256


class Record:
    """The past of one tensor along time: appended to, cropped and reordered like a cache's keys.

    Args:
        default: What steps hold that were appended as None; as long as all are, nothing is stored.
    """

    def __init__(self, default: int | None = None) -> None:
        self.default = default
        self.buffer: Tensor | None = None
        self.length = 0

    def append(self, new: Tensor | None, like: Tensor) -> None:
        """Remember `new` ``[B, T, ...]`` behind what is there.

        Args:
            new: The steps; None for the default.
            like: A tensor ``[B, T, ...]`` on their device.
        """
        end = self.length + like.shape[1]
        if new is None and self.buffer is not None:
            new = torch.full_like(like, self.default, dtype=self.buffer.dtype)  # type: ignore[arg-type]
        if new is not None:
            if self.buffer is None and self.length:
                past = (like.shape[0], self.length)
                self.buffer = new.new_full(past, self.default)  # type: ignore[arg-type]
            self._write(new, end)
        self.length = end

    def _write(self, new: Tensor, end: int) -> None:
        if self.buffer is None:
            # A copy: what was given is the caller's, who may write into it.
            self.buffer = new.clone()
        elif torch.is_grad_enabled():
            # With gradients nothing may be written in place: earlier steps are still needed.
            self.buffer = torch.cat([self.buffer[:, : self.length], new], dim=1)
        else:
            # Nor may what was made in inference mode, once outside of it.
            frozen = self.buffer.is_inference() and not torch.is_inference_mode_enabled()
            if frozen or end > self.buffer.shape[1]:
                room = max(_GROWTH_TOKENS, end // 2)
                grown = new.new_empty((new.shape[0], end + room, *new.shape[2:]))
                grown[:, : self.length] = self.buffer[:, : self.length]
                self.buffer = grown
            self.buffer[:, self.length : end] = new

    def last(self, count: int) -> Tensor | None:
        """Return the last `count` steps or the fewer that there are; None where all are default."""
        if self.buffer is None:
            return None
        steps = self.buffer[:, max(0, self.length - count) : self.length]
        # What was made in inference mode takes no part in gradients, a copy does.
        frozen = steps.is_inference() and not torch.is_inference_mode_enabled()
        return steps.clone() if frozen else steps

    def crop(self, length: int) -> None:
        """Forget all but the first `length` steps."""
        self.length = min(self.length, length)
        if not self.length:
            self.buffer = None

    def map_batch(self, select: Any) -> None:
        """Replace the batch by `select` of it."""
        if self.buffer is not None:
            self.buffer = select(self.buffer[:, : self.length])


class MemoryState:
    """The past of one model's memory.

    The windows are all that the next tokens need. They are forgotten when tokens are cropped, and
    then computed again from ids and gates, which take a small part of the room.

    Attributes:
        tokens: Token ids so far ``[B, T]``.
        keep: Which of them were not masked ``[B, T]``.
        starts: Which of them started a document ``[B, T]``.
        positions: Their position ids ``[B, T]``; -1 where the call had none.
        gates: Gates of each layer so far ``[B, T, M]``, by layer id.
        windows: Inputs of each layer's convolution at the last W tokens ``[B, W, P]``.
    """

    def __init__(self, layer_ids: list[int]) -> None:
        self.tokens, self.keep, self.starts = Record(), Record(default=1), Record(default=0)
        self.positions = Record(default=-1)
        self.gates = {layer_id: Record() for layer_id in layer_ids}
        self.windows: dict[int, Tensor] = {}

    def append(
        self, tokens: Tensor, keep: Tensor | None, starts: Tensor | None, positions: Tensor | None
    ) -> None:
        """Remember the tokens of a call ``[B, T]``."""
        self.tokens.append(tokens, tokens)
        self.keep.append(keep, tokens)
        self.starts.append(starts, tokens)
        self.positions.append(positions, tokens)

    def last(self, count: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the last `count` tokens, `keep` and `starts` ``[B, count]``."""
        tokens = self.tokens.last(count)
        assert tokens is not None
        return tokens, self.keep.last(count), self.starts.last(count)

    def remember(self, layer_id: int, past: ConvPast) -> None:
        """Remember what a layer read at the tokens of a call."""
        self.windows[layer_id] = past.window
        self.gates[layer_id].append(past.gates, past.gates)

    def follow(self, cached_tokens: int) -> None:
        """Forget the tokens that the cache does not hold, such as those of a call that failed.

        Raises:
            MismatchError: The cache holds more: other models, or calls without the memory, have
                filled it.
        """
        seen = self.tokens.length
        if seen < cached_tokens:
            raise MismatchError(
                f"The cache holds {cached_tokens} tokens, of which the memory saw {seen}.",
                "Fill a cache with the attached model from its first token on.",
                cached_tokens=cached_tokens,
                memory_tokens=seen,
            )
        if seen > cached_tokens:
            self.crop(seen - cached_tokens)

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` positions."""
        kept = max(0, self.tokens.length - tokens)
        if tokens > 0:
            self.windows.clear()
        for record in self._records():
            record.crop(kept)

    def map_batch(self, select: Any) -> None:
        """Replace the batch of everything by `select` of it."""
        self.windows = {layer_id: select(window) for layer_id, window in self.windows.items()}
        for record in self._records():
            record.map_batch(select)

    def _records(self) -> list[Record]:
        return [self.tokens, self.keep, self.starts, self.positions, *self.gates.values()]


def state_of(cache: Any, layer_ids: list[int]) -> MemoryState:
    """Return the memory's state in a cache, giving it one when it has none.

    Args:
        cache: Any of transformers' caches.
        layer_ids: Layers that read the memory.
    """
    holder = self_attention_cache(cache)
    if not isinstance(holder, _CarriesMemory):
        holder.__class__ = mixed(_CarriesMemory, holder.__class__)
        holder.engram = MemoryState(layer_ids)
    state: MemoryState = holder.engram
    return state


class _CarriesMemory:
    """Mixed into a cache's class: what happens to the cache happens to the memory's state."""

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

"""Looks up the tokens of a call: their hash ids, masks and document starts for all layers.

Shapes: B sequences, T tokens of a call, L layers with a memory, C columns.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from engram.errors import InputError
from engram.hf.ids import MemoryIds
from engram.hf.packed import document_starts, tokens_since_start
from engram.hf.state import MemoryState, Past, Record, both
from engram.nn.gaps import closed_order, gaps_in, in_time, masks_some, reorder
from engram.nn.module import GatedTokens


@dataclass(frozen=True)
class Reader:
    """The constants for reading token ids in a decoder's memories.

    Attributes:
        ids: Hashes token ids.
        token_map: The compressed vocabulary, int32 ``[V]``; None if raw ids are hashed.
        window_tokens: Past tokens W that convolutions see.
        vocab_size: Number of ids that the model has embeddings for.
    """

    ids: MemoryIds
    token_map: Tensor | None
    window_tokens: int
    vocab_size: int

    @property
    def closes_gaps(self) -> bool:
        """Whether masked tokens inside rows are skipped."""
        return self.ids.addresses.layout.masked == "absent"


@dataclass(frozen=True)
class Before:
    """The last S tokens before a call; S is at most the window W of the convolutions.

    Attributes:
        ids: Hash ids without offsets ``[B, S, L, C]``.
        keep: False at masked ones ``[B, S]``; None when there are none.
        places: Their positions in the text ``[B, S]``; None if they are its last tokens.
    """

    ids: Tensor
    keep: Tensor | None
    places: Tensor | None

    def with_gates(self, record: Record) -> GatedTokens:
        """Add a layer's gates from its state."""
        gates = cast(Tensor, record.last(self.ids.shape[1], self.places))
        if self.keep is not None:
            gates = gates.masked_fill(~self.keep.to(gates.device)[:, :, None], 0)
        return GatedTokens(self.ids, gates)


@dataclass(frozen=True)
class Lookup:
    """Facts about the tokens of a call that the memories of its layers need.

    Attributes:
        ids: Hash ids without offsets ``[B, T, L, C]``.
        keep: False at masked positions and at ids that the tokenizer does not have ``[B, T]``; None
            when there are none.
        state: The memory's past in the call's cache; None without a cache.
        since: Tokens since each token's document started ``[B, T]``; None if each row is one
            document.
        before: The preceding tokens, if the state has dropped the convolutions' windows.
    """

    ids: Tensor
    keep: Tensor | None
    state: MemoryState | None
    since: Tensor | None
    before: Before | None


def look_up(
    reader: Reader,
    ids: Tensor,
    mask: Tensor | None,
    position_ids: Tensor | None,
    state: MemoryState | None,
    hash_ids: Tensor | None,
) -> Lookup:
    """Look up the tokens of a call, and add them to the state.

    Args:
        reader: The constants.
        ids: Token ids ``[B, T]``.
        mask: False or 0 at masked tokens ``[B, past + T]``, or wider; None masks none.
        position_ids: Positions ``[B, T]`` or ``[1, T]``; other shapes are ignored.
        state: The memory's past; None without a cache.
        hash_ids: Hash ids of the tokens ``[B, T, L, C]``, -1 for those to compute here; None to
            compute them all.

    Raises:
        InputError: The mask is too short, or ids do not fit the tokenizer or the tables.
    """
    length, seen = ids.shape[1], 0 if state is None else state.tokens.length
    shown = None if mask is None else _own_part(mask, seen, length)
    ids, known = reader.ids.readable(ids, reader.vocab_size)
    keep = both(shown, known)
    addresses, past, before, last = reader.ids.addresses, None, None, None
    if state is not None:
        if mask is not None and seen:
            _follow_mask(reader, state, mask[:, :seen].bool())
        past = state.last(addresses.max_ngram_size - 1, skip_masked=reader.closes_gaps)
        before = None if state.windows else _before(reader, state)
        last = state.last(1, skip_masked=True)
    starts = document_starts(addresses, position_ids, ids, keep, last)
    hashed = _hash(reader, ids, keep, starts, past)
    if hash_ids is not None:
        hashed = hash_ids.where(hash_ids >= 0, hashed)
    counted = keep
    if state is not None:
        positions = None
        if position_ids is not None and position_ids.ndim == 2:
            positions = position_ids.expand_as(ids)
        state.append(ids, shown, known, starts, positions, hash_ids)
        so_far = state.tokens.length
        starts, counted = state.starts.last(so_far), state.kept(so_far)
    since = None
    if starts is not None:
        counted = counted if reader.closes_gaps else None
        since = tokens_since_start(starts, counted)[:, -length:]
    return Lookup(ids=hashed, keep=keep, state=state, since=since, before=before)


def _hash(
    reader: Reader,
    ids: Tensor,
    keep: Tensor | None,
    starts: Tensor | None,
    past: Past | None,
) -> Tensor:
    """Hash the ids of a call ``[B, T]`` after those of the past."""
    gaps = gaps_in(keep, past is not None) if reader.closes_gaps else None
    length = ids.shape[1]
    if past is not None:
        keep = _joined((past.keep, past.tokens), (keep, ids), default=True)
        starts = _joined((past.starts, past.tokens), (starts, ids), default=False)
        ids = torch.cat([past.tokens, ids], dim=1)
    if gaps is not None and keep is not None:
        order = closed_order(keep)
        ids, keep = reorder(ids, order), reorder(keep, order)
        starts = None if starts is None else reorder(starts, order)
    hashed = reader.ids(ids, reader.token_map, keep, starts)[:, -length:]
    return hashed if gaps is None else reorder(hashed, in_time(closed_order(gaps)))


def _before(reader: Reader, state: MemoryState) -> Before | None:
    """Hash the tokens again from which the convolutions' windows are recomputed."""
    window, orders = reader.window_tokens, reader.ids.addresses.max_ngram_size
    count = window + orders - 1
    past = state.last(count, skip_masked=reader.closes_gaps) if window else None
    if past is None:
        return None
    # The first of these tokens see less context than before: they are not among the last.
    hashed = reader.ids(past.tokens, reader.token_map, past.keep, past.starts)
    keep, places = past.keep, past.places
    given = state.hash_ids.last(past.tokens.shape[1], places)
    if given is not None:
        hashed = given.where(given >= 0, hashed)
    cut = slice(-window, None)
    return Before(
        hashed[:, cut],
        None if keep is None else keep[:, cut],
        None if places is None else places[:, cut],
    )


# The function examines values, and compiling it would not pay.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _follow_mask(reader: Reader, state: MemoryState, mask: Tensor) -> None:
    """Apply the mask of a call to the past ``[B, T]``."""
    if state.mask_again(mask):
        length = state.tokens.length
        tokens, positions = state.tokens.last(length), state.positions.last(length)
        assert tokens is not None
        starts = document_starts(reader.ids.addresses, positions, tokens, state.kept(length))
        state.starts.replace(torch.zeros_like(mask) if starts is None else starts)


def _joined(*parts: tuple[Tensor | None, Tensor], default: bool) -> Tensor | None:
    """Join flags along time, each given with its ids; None means the default everywhere."""
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
    """Return a mask's columns for the tokens of this call, after `seen` earlier ones.

    None if they mask nothing.
    """
    if mask.shape[1] < seen + length:
        raise InputError(
            f"The attention mask must cover all {seen + length} tokens so far, got "
            f"{mask.shape[1]}.",
            "Include the cached tokens in the mask.",
            mask_tokens=mask.shape[1],
            tokens=seen + length,
        )
    own = mask[:, seen : seen + length].bool()
    return own if masks_some(own) else None

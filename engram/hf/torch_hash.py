"""The hash in torch ops, for use inside a model on any device; equal to `reference.hash_ids`.

It never waits for the device and has no branch that depends on values, so that torch.compile can
compile all of it. Shapes: B sequences, T tokens, L layers, C columns, H heads, N the highest n-gram
order.
"""

import torch
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.errors import LayoutError
from engram.nn.compat import records_a_lasting_graph


class TorchHasher:
    """Hashes token ids on their own device.

    The constants are built on each device when the first ids come from it, so that a model can be
    moved, or built on the meta device, without them. The token map belongs to the model and is
    given with each call.

    Args:
        addresses: The memory's constants; the token map may be missing.
    """

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def hash(
        self,
        ids: Tensor,
        *,
        token_map: Tensor | None = None,
        keep: Tensor | None = None,
        starts: Tensor | None = None,
        history: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hash token ids.

        If ids are compressed, an id that is not below the tokenizer's length is an IndexError on a
        CPU and an assertion of the device elsewhere; raw ids are not checked.

        Args:
            ids: Token ids ``[B, T]``.
            token_map: Compressed id per token id ``[V]``, on the ids' device; None if raw ids are
                hashed.
            keep: False at masked positions ``[B, T]``.
            starts: True where a document starts ``[B, T]``.
            history: The tokens before the first ``[B, N-1]``, as returned by the previous call.

        Returns:
            Hash ids without offsets, int64 ``[B, T, L, C]``, and the history ``[B, N-1]`` for the
            next call.

        Raises:
            LayoutError: The layout hashes compressed ids and there is no token map.
        """
        compressed = self._compress(ids, token_map)
        ends = None if self.addresses.end_id is None else ids == self.addresses.end_id
        slots, history = self._look_back(compressed, keep, starts, ends, history)
        multipliers, primes = self._on(ids.device)
        heads = self.addresses.n_heads
        mix = slots[0][:, :, None] * multipliers[:, 0]  # [B, T, L]
        columns = []
        for k in range(1, self.addresses.max_ngram_size):
            mix = mix ^ (slots[k][:, :, None] * multipliers[:, k])
            columns.append(
                torch.remainder(mix[:, :, :, None], primes[:, (k - 1) * heads : k * heads])
            )
        return torch.cat(columns, dim=-1), history

    def _compress(self, ids: Tensor, token_map: Tensor | None) -> Tensor:
        ids = ids.long()
        if self.addresses.map_sha256 is None:
            return ids
        if token_map is None:
            raise LayoutError(
                "The memory hashes compressed ids, but got no token map.",
                "Pass the model's token_map with the call.",
            )
        return token_map[ids.clamp(min=0)].long().where(ids >= 0, ids)

    def _look_back(
        self,
        compressed: Tensor,
        keep: Tensor | None,
        starts: Tensor | None,
        ends: Tensor | None,
        history: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        """See `reference.look_back`; the slots are N tensors ``[B, T]``."""
        fill, past = self.addresses.fill, self.addresses.max_ngram_size - 1
        batch, length = compressed.shape
        if history is None:
            history = compressed.new_full((batch, past), fill)
        tokens = torch.cat([history, compressed], dim=1)
        edge = torch.ones(batch, 1, dtype=torch.bool, device=compressed.device)
        alive = torch.ones_like(compressed, dtype=torch.bool) if keep is None else keep.bool()
        # Whether position t may look back at t - 1, from the history to one position after the
        # last, whose slots are the history for the next call.
        before = alive if ends is None else alive & ~ends
        reaches = torch.cat([edge.expand(batch, past + 1), before], dim=1)
        if starts is not None:
            here = torch.cat([edge.expand(batch, past), ~starts.bool(), edge], dim=1)
            reaches = reaches & here
        is_open = torch.cat([alive, edge], dim=1)
        slots, left = [compressed.where(alive, fill)], []
        for k in range(1, past + 1):
            is_open = is_open & reaches[:, past - k + 1 : past - k + 2 + length]
            slot = tokens[:, past - k : past - k + 1 + length].where(is_open, fill)
            slots.append(slot[:, :-1])
            left.append(slot[:, -1])
        return slots, torch.stack(left[::-1], dim=1)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Multipliers ``[L, N]`` and primes ``[L, C]`` on a device."""
        lasting = records_a_lasting_graph()
        if device in self._constants and not lasting:
            return self._constants[device]
        layers = self.addresses.layers
        made = (
            torch.tensor([layer.multipliers for layer in layers], device=device),
            torch.tensor([layer.heads for layer in layers], device=device),
        )
        # Exported tensors have no values to cache, and a function that is traced twice must give
        # the same trace.
        if not lasting:
            self._constants[device] = made
        return made

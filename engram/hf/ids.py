"""Turns a call's token ids into hash ids, with the past that a cache remembers.

Shapes: B sequences, T tokens, L layers, C columns, N highest n-gram order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.torch_ops import TorchHasher
from engram.errors import MismatchError
from engram.hf.state import MemoryState


class MemoryIds:
    """Hashes token ids on their device: by the compiled kernel on a CPU, else in torch ops.

    Plain Python, not a module: copying a model to the meta device or to another dtype leaves the
    constants as they are. The token map is the model's buffer, given with each call.
    """

    def __init__(self, addresses: Addresses, model_vocab_size: int) -> None:
        self.addresses = addresses
        self.model_vocab_size = model_vocab_size
        self._checked: tuple[int, int] | None = None
        self._hasher: Hasher | None = None
        self._torch_hasher: TorchHasher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"addresses": self.addresses, "model_vocab_size": self.model_vocab_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __call__(
        self,
        ids: Tensor,
        token_map: Tensor | None,
        keep: Tensor | None,
        starts: Tensor | None,
        state: MemoryState | None,
    ) -> Tensor:
        """Hash token ids.

        Args:
            ids: Token ids ``[B, T]``.
            token_map: The compressed vocabulary ``[V]`` on the ids' device; None for raw ids.
            keep: False at masked positions ``[B, T]``, or None.
            starts: True where a document starts inside a row ``[B, T]``, or None.
            state: The past, which is added to; None when there is none to remember.

        Returns:
            Hash ids without offsets, int64 ``[B, T, L, C]``.
        """
        if self.model_vocab_size > self.addresses.raw_vocab_size:
            # Ids that the tokenizer does not have (a padded vocabulary, tokens that were added
            # later) are to the memory as if they were masked.
            known = ids < self.addresses.raw_vocab_size
            keep = known if keep is None else keep & known
            ids = ids.clamp_max(self.addresses.raw_vocab_size - 1)
        if state is None:
            return self._hash(ids, token_map, keep, starts)
        now = (
            ids,
            torch.ones_like(ids, dtype=torch.bool) if keep is None else keep,
            torch.zeros_like(ids, dtype=torch.bool) if starts is None else starts,
        )
        records = (state.tokens, state.keep, state.starts)
        past = [record.last(self.addresses.max_ngram_size - 1) for record in records]
        for record, new in zip(records, now, strict=True):
            record.append(new)
        if past[0] is None:
            return self._hash(ids, token_map, keep, starts)
        # The past's own ids are dropped: they see less than they saw when they were new.
        joined = [
            torch.cat([old, new], dim=1)
            for old, new in zip(past, now, strict=True)
            if old is not None
        ]
        return self._hash(joined[0], token_map, joined[1], joined[2])[:, past[0].shape[1] :]

    def _hash(
        self, ids: Tensor, token_map: Tensor | None, keep: Tensor | None, starts: Tensor | None
    ) -> Tensor:
        self.check(token_map)
        if ids.device.type != "cpu" or torch.compiler.is_compiling():
            if self._torch_hasher is None:
                self._torch_hasher = TorchHasher(self.addresses)
            hashed: Tensor = self._torch_hasher.hash(
                ids, token_map=token_map, keep=keep, starts=starts
            )[0]
            return hashed
        if self._hasher is None:
            addresses = self.addresses
            if token_map is not None:
                addresses = addresses.with_map(_as_numpy(token_map))
            self._hasher = Hasher(addresses, threads=torch.get_num_threads())
        rows, _ = self._hasher.hash(
            ids.numpy(),
            keep=None if keep is None else keep.numpy(),
            starts=None if starts is None else starts.numpy(),
        )
        return torch.from_numpy(rows)

    def check(self, token_map: Tensor | None) -> None:
        """Compare a token map with the fingerprint, once for every map.

        Raises:
            MismatchError: It is another tokenizer's, or was never loaded.
        """
        if torch.compiler.is_compiling():
            if token_map is not None and self._checked is None:
                raise MismatchError(
                    "The token map was not checked before the model was compiled.",
                    "Load the weights, then call model.check_token_map().",
                )
            return
        if token_map is None:
            return
        # Tensors made in inference mode count no versions.
        version = 0 if token_map.is_inference() else token_map._version
        if self._checked != (id(token_map), version):
            self.addresses.with_map(_as_numpy(token_map))
            self._checked, self._hasher = (id(token_map), version), None


def _as_numpy(token_map: Tensor) -> NDArray[np.int32]:
    return token_map.detach().cpu().numpy().astype(np.int32)

"""Hashes token ids on their own device: on a CPU with the compiled kernel.

Shapes: B sequences, T tokens, L layers, C columns.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.errors import MismatchError
from engram.hf.torch_hash import TorchHasher
from engram.nn.compat import records_a_graph, version_of
from engram.nn.gaps import masks_some


class MemoryIds:
    """Hashes token ids on their device: with the compiled kernel on a CPU, else with torch ops.

    A plain Python object, not a module: copying a model to the meta device or to another dtype
    leaves the constants unchanged. The token map is the model's buffer, given with each call.

    Args:
        addresses: The constants.
        not_text: Ids of tokens that do not represent text, such as a part of an image.

    Attributes:
        ever_checked: Whether a token map was checked; without one, no graph may be recorded.
        not_filled: The reason that `from_config` could not fill the token map, as a sentence; empty
            for models that were loaded.
    """

    def __init__(self, addresses: Addresses, not_text: tuple[int, ...] = ()) -> None:
        self.addresses, self.not_text = addresses, not_text
        self.ever_checked, self.not_filled = False, ""
        # The map itself, not its id, which another map may get when this one is gone.
        self._checked: tuple[Tensor | None, int] = (None, 0)
        self._hasher: Hasher | None = None
        self._torch_hasher = TorchHasher(addresses)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of a checked map are valid, too.
        kept = {"ever_checked": self.ever_checked, "not_filled": self.not_filled}
        return MemoryIds, (self.addresses, self.not_text), kept

    def readable(self, ids: Tensor, model_vocab_size: int) -> tuple[Tensor, Tensor | None]:
        """Find ids that the tokenizer does not have, and ids that do not represent text.

        The memory treats ids of a padded vocabulary, of tokens that were added later, or of parts
        of an image, like masked ones.

        Args:
            ids: Token ids ``[B, T]``.
            model_vocab_size: Ids that the model has embeddings for.

        Returns:
            Ids that can be hashed ``[B, T]``; and a mask of those that are text of the tokenizer
            ``[B, T]``, None if all are.
        """
        if model_vocab_size <= self.addresses.raw_vocab_size and not self.not_text:
            return ids, None
        known = ids < self.addresses.raw_vocab_size
        for token_id in self.not_text:
            known = known & (ids != token_id)
        if not masks_some(known):
            return ids, None
        return ids.clamp_max(self.addresses.raw_vocab_size - 1), known

    def __call__(
        self, ids: Tensor, token_map: Tensor | None, keep: Tensor | None, starts: Tensor | None
    ) -> Tensor:
        """Hash token ids.

        Args:
            ids: Token ids ``[B, T]``.
            token_map: The compressed vocabulary ``[V]``, on any device; None for raw ids.
            keep: False at masked positions ``[B, T]``, or None.
            starts: True where a document starts inside a row ``[B, T]``, or None.

        Returns:
            Hash ids without offsets, int64 ``[B, T, L, C]``.
        """
        self.check(token_map)
        if ids.device.type != "cpu" or records_a_graph():
            if token_map is not None:
                token_map = token_map.to(ids.device)  # its layer may be on another device
            return self._torch_hasher.hash(ids, token_map=token_map, keep=keep, starts=starts)[0]
        hasher = self._hasher  # another thread may check a map, and reset this, at any time
        if hasher is None:
            addresses = self.addresses
            if token_map is not None:
                addresses = addresses.with_map(_as_numpy(token_map))
            hasher = self._hasher = Hasher(addresses, threads=torch.get_num_threads())
        rows, _ = hasher.hash(
            ids.numpy(),
            keep=None if keep is None else keep.numpy(),
            starts=None if starts is None else starts.numpy(),
        )
        return torch.from_numpy(rows)

    def check(self, token_map: Tensor | None) -> None:
        """Compare a token map with the fingerprint, once per map.

        Raises:
            MismatchError: It belongs to another tokenizer, or was never loaded.
        """
        if records_a_graph():
            if token_map is not None and not self.ever_checked:
                _refuse_unchecked()
            return
        if token_map is None:
            return
        version = version_of(token_map)
        if self._checked[0] is not token_map or self._checked[1] != version:
            if not bool(token_map.any()):
                raise self._empty_map(len(token_map))
            self.addresses.with_map(_as_numpy(token_map))
            self._checked, self._hasher = (token_map, version), None
            self.ever_checked = True

    def _empty_map(self, ids: int) -> MismatchError:
        if self.not_filled:
            return MismatchError(
                "The memory has no token map: the model was made with from_config, which loads no "
                f"weights, and the tokenizer could not be read: {self.not_filled}",
                "Fill it: model.fill_token_map(TOKENIZER); a folder, file, hub id or tokenizer.",
                reason=self.not_filled,
            )
        return MismatchError(
            f"The memory's token map is empty: all of its {ids} entries are 0.",
            "Restore the checkpoint (engram verify FOLDER has details), or fill the map: "
            "model.fill_token_map(TOKENIZER).",
            ids=ids,
        )


# Runs eagerly while a graph is recorded, so that callers see its error.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _refuse_unchecked() -> None:
    raise MismatchError(
        "The token map was not checked before the model was compiled, exported or traced.",
        "Load the weights, then call model.check_token_map().",
    )


def _as_numpy(token_map: Tensor) -> NDArray[np.int32]:
    return token_map.detach().cpu().numpy().astype(np.int32)

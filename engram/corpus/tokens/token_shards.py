"""Writes shards of whole documents: plain .npy files of token ids and boundaries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.corpus.tokens.tokenise import TokenBatch, Tokens, token_dtype


class DocumentShards:
    """Cuts documents into shards.

    A shard ends with the first document that fills it to `shard_tokens`, so its bytes do not depend
    on batches or threads.

    Args:
        folder: An empty folder.
        vocab_size: Length of the tokenizer.
        shard_tokens: Tokens that fill a shard.

    Attributes:
        shards: The written shards, for the manifest.
    """

    def __init__(self, folder: Path, vocab_size: int, shard_tokens: int) -> None:
        self.shards: list[dict[str, Any]] = []
        self._folder, self._shard_tokens = folder, shard_tokens
        self._token_dtype = token_dtype(vocab_size)
        self._tokens: list[Tokens] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._filled = 0

    def add(self, batch: TokenBatch) -> None:
        """Add documents, and write every shard that they fill."""
        bounds, first = batch.boundaries, 0
        while first < len(bounds) - 1:
            room = self._shard_tokens - self._filled
            # The first document whose end fills the shard, or the last of the batch.
            end = int(np.searchsorted(bounds[first + 1 :], bounds[first] + room)) + first + 1
            end = min(end, len(bounds) - 1)
            self._tokens.append(batch.tokens[bounds[first] : bounds[end]])
            self._lengths.append(np.diff(bounds[first : end + 1]))
            self._filled += int(bounds[end] - bounds[first])
            if self._filled >= self._shard_tokens:
                self._write()
            first = end

    def close(self) -> None:
        """Write the remaining documents as the last shard."""
        if self._lengths:
            self._write()

    def _write(self) -> None:
        tokens: Any = np.concatenate(self._tokens).astype(self._token_dtype, copy=False)
        lengths = np.concatenate(self._lengths)
        boundaries = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        files = self._write_files(tokens, boundaries)
        self.shards.append({"documents": len(lengths), "tokens": len(tokens), **files})
        self._tokens, self._lengths, self._filled = [], [], 0

    def _write_files(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        """Write a shard.

        Args:
            tokens: Token ids ``[n]``.
            boundaries: First token of every document and, last, n: ``[documents + 1]``.

        Returns:
            Names of its files, by content.
        """
        names = {
            f"{kind}_file": f"{kind}-{len(self.shards):05d}.npy" for kind in ("tokens", "documents")
        }
        save_array(self._folder / names["tokens_file"], tokens)
        save_array(self._folder / names["documents_file"], boundaries)
        return names


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file and flush it to disk."""
    with path.open("wb") as file:
        # Not `write_array`, whose error on a full disk does not mention the disk.
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)
        sync(file)


def sync(file: Any) -> None:
    """Flush an open file to disk."""
    file.flush()
    os.fsync(file.fileno())

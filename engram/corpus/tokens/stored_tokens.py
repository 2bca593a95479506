"""Reads the token shards of a folder as one long text, in place."""

from __future__ import annotations

from collections.abc import Generator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.corpus.results.manifests import read_token_manifest
from engram.corpus.results.result_folder import check_whole
from engram.corpus.tokens.tokenise import TokenBatch, cut_batches
from engram.errors import CorruptFileError
from engram.storage.npy_files import read_npy

_HINT = "Write the folder again."


class StoredTokens:
    """The tokens of a folder of .npy token shards, which are mapped, never loaded as a whole.

    Args:
        folder: A folder with `manifest.json`, whose shards name a tokens and a documents file.
        check_digests: Whether to compare the sha256 of every file, and not only its size.

    Attributes:
        folder: The folder.
        n_tokens: Tokens of all shards.
        tokenizer: The tokenizer in the manifest: `name`, `sha256`, `vocab_size`.

    Raises:
        InputError: It is not such a folder, or its shards are parquet files.
        CorruptFileError: A shard is missing, truncated, or differs from the manifest.
    """

    def __init__(self, folder: Path, *, check_digests: bool = False) -> None:
        self.folder = folder
        manifest = read_token_manifest(folder)
        shards, self.tokenizer = manifest["shards"], manifest["tokenizer"]
        check_whole(folder, manifest, _HINT, digests=check_digests)
        self._shards: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for shard in shards:
            tokens = read_npy(folder / shard["tokens_file"], 1, hint=_HINT)
            bounds = read_npy(folder / shard["documents_file"], 1, hint=_HINT)
            sizes = (len(tokens), len(bounds) - 1, int(bounds[-1]) if len(bounds) else 0)
            if sizes != (shard["tokens"], shard["documents"], shard["tokens"]):
                raise CorruptFileError(
                    f"{folder / shard['tokens_file']} holds {sizes[0]:,} tokens and its documents "
                    f"file {sizes[1]:,} documents with {sizes[2]:,}; the manifest says "
                    f"{shard['tokens']:,} tokens in {shard['documents']:,} documents.",
                    _HINT,
                    file=str(folder / shard["tokens_file"]),
                )
            self._shards.append((tokens, bounds))
        self._firsts = [0, *accumulate(len(tokens) for tokens, _ in self._shards)]
        self.n_tokens = self._firsts[-1]

    @property
    def total_bytes(self) -> int:
        """Bytes of the tokens."""
        return sum(int(tokens.nbytes) for tokens, _ in self._shards)

    def batches(self) -> Generator[TokenBatch]:
        """Read the documents, in the form of `tokenise`.

        Raises:
            CorruptFileError: The boundaries of documents do not rise.
        """
        read_bytes = 0
        for tokens, bounds in self._shards:
            self._check_rising(bounds, 0, len(tokens))
            for start, end in pairwise(cut_batches(bounds)):
                part = tokens[bounds[start] : bounds[end]]
                read_bytes += int(part.nbytes)
                yield TokenBatch(part, bounds[start : end + 1] - bounds[start], read_bytes)

    def read(self, begin: int, end: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read tokens begin..end-1.

        Returns:
            The token ids ``[n]``, and True where a document starts ``[n]``.

        Raises:
            CorruptFileError: The boundaries of documents do not rise.
        """
        parts, starts = [], np.zeros(end - begin, dtype=bool)
        shard = int(np.searchsorted(self._firsts, begin, side="right")) - 1
        last = int(np.searchsorted(self._firsts, end))
        for first, (tokens, bounds) in zip(
            self._firsts[shard:last], self._shards[shard:last], strict=True
        ):
            start, stop = max(begin - first, 0), min(end - first, len(tokens))
            parts.append(tokens[start:stop])
            low, high = np.searchsorted(bounds, [start, stop])
            self._check_rising(bounds[low:high], start, stop)
            starts[bounds[low:high] + (first - begin)] = True
        return np.concatenate(parts) if parts else np.empty(0, np.uint32), starts

    def _check_rising(self, bounds: NDArray[Any], low: int, high: int) -> None:
        """Check boundaries when they are read, since reading all of a large corpus takes long."""
        if len(bounds) and not (
            low <= bounds[0] and bounds[-1] <= high and (bounds[1:] >= bounds[:-1]).all()
        ):
            raise CorruptFileError(
                f"{self.folder} is damaged: the boundaries of its documents do not rise.",
                _HINT,
                folder=str(self.folder),
            )

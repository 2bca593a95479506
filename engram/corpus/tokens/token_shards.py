"""Writes and reads shards of whole documents: plain .npy files of token ids and boundaries."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.results.manifests import read_token_manifest
from engram.corpus.results.result_folder import MANIFEST, check_whole
from engram.corpus.tokens.mapped_tokens import MappedTokens, TokenShard
from engram.corpus.tokens.tokenise import TokenBatch, Tokens, token_dtype
from engram.errors import CorruptFileError, MismatchError
from engram.storage.files import sha256_of
from engram.storage.npy_files import read_npy

_HINT = "Write the folder again."


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


class StoredTokens(MappedTokens):
    """The tokens of a folder of .npy token shards.

    Args:
        folder: A folder with `manifest.json`, whose shards name a tokens and a documents file.
        check_digests: Whether to compare the sha256 of every file, and not only its size.

    Attributes:
        folder: The folder.
        tokenizer: The tokenizer in the manifest: `name`, `sha256`, `vocab_size`.
        sha256: Digest of the names and digests of all files.

    Raises:
        InputError: It is not such a folder, or its shards are parquet files.
        CorruptFileError: A shard is missing, truncated, or differs from the manifest.
    """

    def __init__(self, folder: Path, *, check_digests: bool = False) -> None:
        self.folder = folder
        manifest = read_token_manifest(folder)
        shards, self.tokenizer = manifest["shards"], manifest["tokenizer"]
        check_whole(folder, manifest, _HINT, digests=check_digests)
        mapped = []
        for shard in shards:
            path = folder / shard["tokens_file"]
            tokens = read_npy(path, 1, hint=_HINT)
            bounds = read_npy(folder / shard["documents_file"], 1, hint=_HINT)
            sizes = (len(tokens), len(bounds) - 1, int(bounds[-1]) if len(bounds) else 0)
            if sizes != (shard["tokens"], shard["documents"], shard["tokens"]):
                raise CorruptFileError(
                    f"{path} holds {sizes[0]:,} tokens and its documents "
                    f"file {sizes[1]:,} documents with {sizes[2]:,}; the manifest says "
                    f"{shard['tokens']:,} tokens in {shard['documents']:,} documents.",
                    _HINT,
                    file=str(path),
                )
            mapped.append(TokenShard(str(path), tokens, bounds))
        super().__init__(folder, mapped)
        digests = sorted((file["name"], file["sha256"]) for file in manifest["files"])
        self.sha256 = sha256(json.dumps(digests).encode()).hexdigest()

    @property
    def job_sha256(self) -> str:
        """Digest of the manifest."""
        return sha256_of(self.folder / MANIFEST)

    @property
    def ends_with_eos(self) -> bool:
        """Whether every document ends with the end-of-text token."""
        return self.tokenizer.get("eos_id") is not None


def check_digest(tokenizer: TokenizerFile, name: str, sha256: str) -> None:
    """Check that a tokenizer is the one that tokens were made with.

    Args:
        tokenizer: The tokenizer.
        name: Name of the one that they were made with.
        sha256: Its digest.

    Raises:
        MismatchError: It is another one.
    """
    if tokenizer.digest != sha256:
        raise MismatchError(
            f"The tokenizer {tokenizer.name} is not the one that the tokens were made with "
            f"({name}): its digest must be {sha256[:16]}..., got {tokenizer.digest[:16]}....",
            "Use that tokenizer, or build the corpus again.",
            tokenizer=tokenizer.name,
            expected=sha256,
            found=tokenizer.digest,
        )


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file and flush it to disk."""
    with path.open("wb") as file:
        write_array(file, array)
        sync(file)


def write_array(file: Any, array: NDArray[Any]) -> None:
    """Write the bytes of an .npy file."""
    # Not numpy's `write_array`, whose error on a full disk does not mention the disk.
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(np.ascontiguousarray(array).data)


def sync(file: Any) -> None:
    """Flush an open file to disk."""
    file.flush()
    os.fsync(file.fileno())

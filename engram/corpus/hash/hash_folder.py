"""Writes a folder of hash ids: shards are collected in a hidden folder, then published."""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.corpus.counts.statistics import LayerStatistics
from engram.corpus.hash.hash_shards import (
    Format,
    Shard,
    check_format,
    ids_dtype,
    shard_names,
    write_shard,
)
from engram.corpus.results.manifests import DIGESTS_SHAPE, HASHES_SCHEMA, find_manifest
from engram.corpus.results.result_folder import (
    MANIFEST,
    check_folder,
    check_whole,
    damage,
    new_folder,
    write_manifest,
)
from engram.corpus.results.work_folder import check_work, note_assembled
from engram.corpus.text.text_options import SHARD_TOKENS
from engram.corpus.tokens.token_shards import DocumentShards, save_array
from engram.corpus.tokens.tokenise import Tokens, token_dtype
from engram.storage.files import are_as_digested, sha256_of, write_json
from engram.storage.json_files import find_json, read_json
from engram.version import __version__

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

TOKEN_MAP = "token_map.npy"


@dataclass(frozen=True)
class Target:
    """The target of hash ids: folder, format and shard size.

    Attributes:
        folder: The output folder.
        format: npy or parquet.
        shard_tokens: Tokens that fill a shard.
        overwrite: Whether an existing or unfinished folder of hash ids may be replaced.
        resume: Whether to continue an unfinished folder; a finished one is recognised.
    """

    folder: Path
    format: Format = "npy"
    shard_tokens: int = SHARD_TOKENS
    overwrite: bool = False
    resume: bool = False

    def check(self) -> None:
        """Check that the folder can be created, no unfinished one is lost, and the format works.

        Raises:
            InputError: The path exists and may not be replaced.
            MissingPackageError: parquet needs pyarrow.
        """
        check_format(self.format)
        check_folder(self.folder, HASHES_SCHEMA, self.overwrite)
        check_work(self.folder, None, self.resume, self.overwrite)

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the existing folder; None if there is none."""
        return find_manifest(self.folder, HASHES_SCHEMA)

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        """Whether the files of the existing folder match its manifest.

        Raises:
            CorruptFileError: They do not, and the folder may not be replaced.
        """
        if not self.overwrite:
            check_whole(self.folder, manifest, "Hash again: --overwrite instead of --resume.")
        return not damage(self.folder, manifest)

    def size_bytes(self) -> int:
        """Return the bytes of the existing folder."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


class HashWriter(DocumentShards):
    """Cuts documents into shards, and hashes and writes several shards in parallel.

    A .json with digests is written after each shard's files; shards that have one are kept.

    Args:
        work: The hidden folder for files until all are written.
        target: Format and size of the shards.
        addresses: The memory's constants.
        vocab_size: Length of the tokenizer.
        threads: Shards that are written in parallel.

    Attributes:
        resumed: Shards that existed already.
    """

    def __init__(
        self, work: Path, target: Target, addresses: Addresses, *, vocab_size: int, threads: int = 1
    ) -> None:
        super().__init__(work, vocab_size, target.shard_tokens)
        self.resumed = 0
        self._target, self._addresses = target, addresses
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)
        self._running: deque[Future[bool]] = deque()
        self._documents = 0
        self._is_stopped = False

    def _write_files(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        while len(self._running) >= self._threads:
            self._wait()
        shard = Shard(len(self.shards), tokens, boundaries, self._documents)
        self._documents += len(boundaries) - 1
        self._running.append(self._pool.submit(self._do, shard))
        return shard_names(shard.index, self._target.format)

    def _do(self, shard: Shard) -> bool:
        """Write a shard; return whether it existed already."""
        self._check_going()
        digests = find_json(self._record(shard.index), DIGESTS_SHAPE)
        if digests is not None and are_as_digested(self._folder, digests, self._check_going):
            return True
        write_shard(self._folder, self._addresses, shard, self._target.format, self._check_going)
        names = shard_names(shard.index, self._target.format).values()
        digests = {name: sha256_of(self._folder / name, self._check_going) for name in names}
        write_json(self._record(shard.index), digests)
        return False

    def _check_going(self) -> None:
        if self._is_stopped:
            raise CancelledError

    def _record(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.json"

    def _wait(self) -> None:
        self.resumed += self._running.popleft().result()

    def close(self) -> None:
        """Write the remaining documents as the last shard, and wait for all shards."""
        super().close()
        while self._running:
            self._wait()

    def stop(self) -> None:
        """Start no further shards, and abandon those in progress."""
        self._is_stopped = True
        self._pool.shutdown(cancel_futures=True)

    def assemble(self, values: dict[str, Any]) -> int:
        """Move the shards, with their manifest, into a folder that appears whole.

        Returns:
            Bytes of the folder.
        """
        target, digests = self._target, dict[str, str]()
        with new_folder(target.folder, HASHES_SCHEMA, target.overwrite) as new:
            for index in range(len(self.shards)):
                record: dict[str, str] = read_json(self._record(index), DIGESTS_SHAPE)
                for name in record:
                    (self._folder / name).rename(new / name)
                digests |= record
            if self._addresses.token_map is not None:
                save_array(new / TOKEN_MAP, self._addresses.token_map.astype(np.int32))
            size_bytes = write_manifest(new, {**values, "shards": self.shards}, digests)
            note_assembled(self._folder, new / MANIFEST)
            return size_bytes


def describe(
    target: Target,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
    counts: dict[str, int],
    layers: tuple[LayerStatistics, ...],
) -> dict[str, Any]:
    """Return the manifest of a folder of hash ids, without its files."""
    return {
        "schema": HASHES_SCHEMA,
        "engram_version": __version__,
        "fingerprint": addresses.fingerprint,
        "format": target.format,
        "shard_tokens": target.shard_tokens,
        "counts": counts,
        "tokenizer": tokenizer.stated(add_eos),
        "tokens": {"dtype": token_dtype(tokenizer.vocab_size).name},
        "ids": {
            "dtype": ids_dtype(addresses).name,
            "axes": ["token", "layer", "column"],
            "column": "(order - 2) * heads + head",
            "layer_ids": addresses.layer_ids,
            "has_offsets": False,
            "row_offsets": [list(layer.offsets) for layer in addresses.layers],
        },
        "addresses": addresses.to_dict(),
        "token_map_file": None if addresses.token_map is None else TOKEN_MAP,
        "statistics": [asdict(layer) for layer in layers],
    }


def is_described(manifest: dict[str, Any] | None, description: dict[str, Any]) -> bool:
    """Whether a manifest matches a result of `describe`: the same text in the same form."""
    expected: dict[str, Any] = json.loads(json.dumps(description))
    return all((manifest or {}).get(key) == value for key, value in expected.items())

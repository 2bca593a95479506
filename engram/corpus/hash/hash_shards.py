"""Writes shards of hash ids, several in parallel: plain .npy files, or parquet."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Form, Hasher
from engram.corpus.hash.digested_files import DigestedFiles
from engram.corpus.hash.hash_options import Format, HashOptions
from engram.corpus.results.manifests import DIGESTS_SHAPE
from engram.corpus.tokens import token_shards
from engram.corpus.tokens.tokenise import Tokens, cut_batches, token_dtype
from engram.errors import MissingPackageError
from engram.storage.files import are_as_digested, write_json
from engram.storage.json_files import find_json, read_json

TOKEN_MAP = "token_map.npy"
_CHUNK_TOKENS = 2**16
# For a shard of this many, loading the compiled hash pays.
_COMPILED_TOKENS = 2**20


def ids_dtype(addresses: Addresses) -> np.dtype[Any]:
    """Return int32 if every hash id without offset fits, else int64."""
    largest = max(max(layer.heads) for layer in addresses.layers) - 1
    return np.dtype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)


def bytes_per_token(addresses: Addresses, vocab_size: int) -> int:
    """Return the bytes of one token in .npy shards: its id, and its hash ids in all layers."""
    columns = len(addresses.layers) * addresses.n_columns
    return token_dtype(vocab_size).itemsize + columns * ids_dtype(addresses).itemsize


def check_format(format: Format) -> None:
    """Check that a format can be written.

    Raises:
        MissingPackageError: parquet needs pyarrow.
    """
    if format == "parquet" and find_spec("pyarrow") is None:
        raise MissingPackageError("pyarrow", "parquet", "--format parquet")


@dataclass(frozen=True)
class Shard:
    """The documents of one shard.

    Attributes:
        index: Number of the shard, from 0.
        tokens: Their token ids ``[n]``, in the stored dtype.
        boundaries: First token of every document and, last, n: ``[documents + 1]``.
        first_document: Documents of the shards before it.
    """

    index: int
    tokens: Tokens
    boundaries: NDArray[np.int64]
    first_document: int


def shard_names(index: int, format: Format) -> dict[str, str]:
    """Return the names of a shard's files, by content.

    npy: tokens ``[n]``, documents ``[documents + 1]``, ids ``[n, L, C]``; parquet: one file with
    one row per document.
    """
    if format == "parquet":
        return {"file": f"shard-{index:05d}.parquet"}
    return {f"{kind}_file": f"{kind}-{index:05d}.npy" for kind in ("tokens", "documents", "ids")}


class HashWriter(token_shards.DocumentShards):
    """Cuts documents into shards, and hashes and writes several shards in parallel.

    A .json with digests is written after each shard's files; shards that have one are kept.

    Args:
        work: The hidden folder for files until all are written.
        options: Format and size of the shards.
        addresses: The memory's constants.
        vocab_size: Length of the tokenizer.
        threads: Shards that are written in parallel.

    Attributes:
        resumed: Shards that existed already.
    """

    def __init__(
        self, work: Path, options: HashOptions, addresses: Addresses, vocab_size: int, threads: int
    ) -> None:
        super().__init__(work, vocab_size, options.shard_tokens)
        self.resumed = 0
        self._format, self._addresses = options.format, addresses
        self._hasher: Hasher | None = None
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)
        self._running: deque[Future[bool]] = deque()
        self._is_stopped = False

    def _write_files(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        while len(self._running) >= self._threads:
            self.resumed += self._running.popleft().result()
        if self._hasher is None:
            form: Form = "numba" if len(tokens) >= _COMPILED_TOKENS else "auto"
            self._hasher = Hasher(self._addresses, form=form)
        documents = sum(shard["documents"] for shard in self.shards)
        shard = Shard(len(self.shards), tokens, boundaries, documents)
        self._running.append(self._pool.submit(self._do, self._hasher, shard))
        return shard_names(shard.index, self._format)

    def _do(self, hasher: Hasher, shard: Shard) -> bool:
        """Write a shard; return whether it existed already."""
        self._check_going()
        digests = find_json(self._record(shard.index), DIGESTS_SHAPE)
        if digests is not None and are_as_digested(self._folder, digests, self._check_going):
            return True
        files = DigestedFiles(self._folder)
        write_shard(files, hasher, shard, self._format, self._check_going)
        write_json(self._record(shard.index), files.digests)
        return False

    def _check_going(self) -> None:
        if self._is_stopped:
            raise CancelledError

    def _record(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.json"

    def close(self) -> None:
        """Write the remaining documents as the last shard, and wait for all shards."""
        super().close()
        while self._running:
            self.resumed += self._running.popleft().result()

    def stop(self) -> None:
        """Start no further shards, and abandon those in progress."""
        self._is_stopped = True
        self._pool.shutdown(cancel_futures=True)

    def move(self, folder: Path) -> dict[str, str]:
        """Move the shards to a folder, with the token map; return the digests of their files."""
        digests = dict[str, str]()
        for index in range(len(self.shards)):
            record: dict[str, str] = read_json(self._record(index), DIGESTS_SHAPE)
            for name in record:
                (self._folder / name).rename(folder / name)
            digests |= record
        if self._addresses.token_map is not None:
            token_shards.save_array(folder / TOKEN_MAP, self._addresses.token_map.astype(np.int32))
        return digests


def write_shard(
    files: DigestedFiles, hasher: Hasher, shard: Shard, format: Format, step: Callable[[], None]
) -> None:
    """Hash a shard and write its files.

    Args:
        files: The output folder.
        hasher: Hashes its tokens; shards can share one.
        shard: The documents.
        format: npy or parquet.
        step: Called for every chunk of tokens; an exception in it ends the work.
    """
    names = shard_names(shard.index, format)
    if format == "parquet":
        with files.open(names["file"]) as file:
            _write_parquet(file, hasher, shard, step)
        return
    with files.open(names["tokens_file"]) as file:
        token_shards.write_array(file, shard.tokens)
    with files.open(names["documents_file"]) as file:
        token_shards.write_array(file, shard.boundaries)
    addresses, size = hasher.addresses, len(shard.tokens)
    shape = (size, len(addresses.layers), addresses.n_columns)
    header = {"descr": ids_dtype(addresses).str, "fortran_order": False, "shape": shape}
    cuts = range(_CHUNK_TOKENS, size + _CHUNK_TOKENS, _CHUNK_TOKENS)
    with files.open(names["ids_file"]) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for ids in _hash(hasher, shard, cuts):
            file.write(ids.data)
            step()


def _write_parquet(file: Any, hasher: Hasher, shard: Shard, step: Callable[[], None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    addresses = hasher.addresses
    columns = len(addresses.layers) * addresses.n_columns
    boundaries, tokens = shard.boundaries, shard.tokens
    # Lists with 64-bit lengths: one long document can have more than 2^31 ids.
    schema = pa.schema(
        {
            "document": pa.int64(),
            "tokens": pa.large_list(pa.from_numpy_dtype(tokens.dtype)),
            "ids": pa.large_list(pa.from_numpy_dtype(ids_dtype(addresses))),
        }
    )
    array_of = pa.LargeListArray.from_arrays
    # A row group holds whole documents, about a chunk of tokens.
    cuts = cut_batches(boundaries, _CHUNK_TOKENS)
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        hashed = _hash(hasher, shard, boundaries[cuts[1:]])
        for (first, end), ids in zip(pairwise(cuts), hashed, strict=True):
            offsets = boundaries[first : end + 1] - boundaries[first]
            arrays = [
                pa.array(np.arange(first, end, dtype=np.int64) + shard.first_document),
                array_of(offsets, tokens[boundaries[first] : boundaries[end]]),
                array_of(offsets * columns, ids.reshape(-1)),
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            step()


def _hash(hasher: Hasher, shard: Shard, cuts: Any) -> Iterator[NDArray[Any]]:
    """Hash tokens up to each cut in turn.

    Yields:
        Ids without offsets ``[chunk, L, C]``, in an array that the next ones overwrite.
    """
    tokens, addresses = shard.tokens, hasher.addresses
    shape = (len(addresses.layers), addresses.n_columns)
    buffer = np.empty((1, _CHUNK_TOKENS, *shape), ids_dtype(addresses))
    starts = np.zeros(len(tokens) + 1, dtype=bool)
    starts[shard.boundaries] = True
    history, begin = None, 0
    for cut in cuts:
        chunk = tokens[begin:cut]
        size = len(chunk)
        if buffer.shape[1] < size:
            buffer = np.empty((1, size, *shape), buffer.dtype)
        ids, history = hasher.hash(
            chunk[None],
            starts=starts[None, begin : begin + size],
            history=history,
            out=buffer[:, :size],
        )
        yield ids[0]
        begin = int(cut)

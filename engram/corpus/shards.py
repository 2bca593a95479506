"""Token ids and hash ids of a text in shards: plain .npy files, or parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.corpus import token_shards
from engram.corpus.token_shards import SHARD_TOKENS, DocumentShards, save_array
from engram.corpus.tokenise import Tokens, token_dtype
from engram.errors import MissingPackageError

Format = Literal["npy", "parquet"]

TOKEN_MAP = "token_map.npy"
_CHUNK_TOKENS = 2**16


def ids_dtype(addresses: Addresses) -> np.dtype[Any]:
    """Return int32 when every hash id without offset fits it, else int64."""
    largest = max(max(layer.heads) for layer in addresses.layers) - 1
    return np.dtype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)


def bytes_per_token(addresses: Addresses, vocab_size: int) -> int:
    """Bytes that one token takes in .npy shards: its id, and its hash ids in all layers."""
    columns = len(addresses.layers) * addresses.n_columns
    return token_dtype(vocab_size).itemsize + columns * ids_dtype(addresses).itemsize


def check_format(format: Format) -> None:
    """Check that a format can be written.

    Raises:
        MissingPackageError: parquet needs pyarrow.
    """
    if format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingPackageError("pyarrow", "parquet", "--format parquet") from None


class ShardWriter(DocumentShards):
    """Writes the documents of a text, hashed, as shards of whole documents.

    Args:
        folder: An empty folder; the token map is written at once.
        addresses: The memory's constants.
        vocab_size: Length of the tokenizer.
        format: npy: three files a shard (tokens ``[n]``, documents ``[documents + 1]``, ids ``[n,
            L, C]``); parquet: one file a shard, one row a document.
        shard_tokens: Tokens that fill a shard.
        threads: Threads that hash.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Addresses,
        *,
        vocab_size: int,
        format: Format = "npy",
        shard_tokens: int = SHARD_TOKENS,
        threads: int = 1,
    ) -> None:
        from engram.addressing.hashing import Hasher

        super().__init__(folder, vocab_size, shard_tokens)
        self._format = format
        self._hasher = Hasher(addresses, threads=threads)
        self._shape = (len(addresses.layers), addresses.n_columns)
        self._buffer = np.empty((1, _CHUNK_TOKENS, *self._shape), ids_dtype(addresses))
        self._documents = 0
        if addresses.token_map is not None:
            save_array(folder / TOKEN_MAP, addresses.token_map.astype(np.int32))

    def _write_files(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        write = {"npy": self._write_npy, "parquet": self._write_parquet}[self._format]
        files = write(tokens, boundaries)
        self._documents += len(boundaries) - 1
        return files

    def _write_npy(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        ids_name = f"ids-{len(self.shards):05d}.npy"
        names = {**super()._write_files(tokens, boundaries), "ids_file": ids_name}
        shape = (len(tokens), *self._shape)
        header = {"descr": self._buffer.dtype.str, "fortran_order": False, "shape": shape}
        cuts = range(_CHUNK_TOKENS, len(tokens) + _CHUNK_TOKENS, _CHUNK_TOKENS)
        with (self._folder / ids_name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for ids in self._hash(tokens, boundaries, cuts):
                file.write(ids.data)
            token_shards.sync(file)
        return names

    def _write_parquet(self, tokens: Tokens, boundaries: NDArray[np.int64]) -> dict[str, str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"shard-{len(self.shards):05d}.parquet"
        columns = self._shape[0] * self._shape[1]
        # A row group holds whole documents, about a chunk of them.
        steps = boundaries[1:] // _CHUNK_TOKENS
        last = np.flatnonzero(np.append(steps[1:] != steps[:-1], True)) + 1
        cuts = boundaries[last]
        token_type = pa.from_numpy_dtype(self._token_dtype)
        id_type = pa.from_numpy_dtype(self._buffer.dtype)
        # Lists that count in 64 bits: the ids of one long document can be more than 2^31.
        lists = {"tokens": pa.large_list(token_type), "ids": pa.large_list(id_type)}
        schema = pa.schema({"document": pa.int64(), **lists})
        array_of = pa.LargeListArray.from_arrays
        first = 0
        with (self._folder / name).open("wb") as file:
            with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
                chunks = zip(last, cuts, self._hash(tokens, boundaries, cuts), strict=True)
                for end, cut, ids in chunks:
                    start = boundaries[first]
                    offsets = boundaries[first : end + 1] - start
                    numbers = np.arange(first, end, dtype=np.int64) + self._documents
                    table = pa.table(
                        [
                            pa.array(numbers),
                            array_of(offsets, tokens[start:cut]),
                            array_of(offsets * columns, ids.reshape(-1)),
                        ],
                        schema=schema,
                    )
                    writer.write_table(table)
                    first = int(end)
            token_shards.sync(file)
        return {"file": name}

    def _hash(
        self, tokens: Tokens, boundaries: NDArray[np.int64], cuts: Any
    ) -> Iterator[NDArray[Any]]:
        """Hash tokens up to each cut in turn.

        Yields:
            Ids without offsets ``[chunk, L, C]``, in an array that the next ones overwrite.
        """
        starts = np.zeros(len(tokens) + 1, dtype=bool)
        starts[boundaries] = True
        history, begin = None, 0
        for cut in cuts:
            chunk = tokens[begin:cut]
            size = len(chunk)
            if self._buffer.shape[1] < size:
                self._buffer = np.empty((1, size, *self._shape), self._buffer.dtype)
            ids, history = self._hasher.hash(
                chunk[None],
                starts=starts[None, begin : begin + size],
                history=history,
                out=self._buffer[:, :size],
            )
            yield ids[0]
            begin = int(cut)

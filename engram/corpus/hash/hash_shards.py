"""The files of one shard of hash ids: plain .npy files, or parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.corpus.tokens import token_shards
from engram.corpus.tokens.token_shards import save_array
from engram.corpus.tokens.tokenise import Tokens, token_dtype
from engram.errors import MissingPackageError

Format = Literal["npy", "parquet"]

_CHUNK_TOKENS = 2**16
# Flushes to disk in steps of this size, since a flush cannot be interrupted.
_SYNCED_BYTES = 2**26


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
    if format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingPackageError("pyarrow", "parquet", "--format parquet") from None


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


def write_shard(
    folder: Path, addresses: Addresses, shard: Shard, format: Format, step: Callable[[], None]
) -> None:
    """Hash a shard and write its files.

    Args:
        folder: The output folder.
        addresses: The memory's constants.
        shard: The documents.
        format: npy or parquet.
        step: Called for every chunk of tokens; an exception in it ends the work.
    """
    names = shard_names(shard.index, format)
    if format == "parquet":
        _write_parquet(folder / names["file"], addresses, shard, step)
        return
    save_array(folder / names["tokens_file"], shard.tokens)
    save_array(folder / names["documents_file"], shard.boundaries)
    size, dtype = len(shard.tokens), ids_dtype(addresses)
    shape = (size, len(addresses.layers), addresses.n_columns)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    cuts = range(_CHUNK_TOKENS, size + _CHUNK_TOKENS, _CHUNK_TOKENS)
    with (folder / names["ids_file"]).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        unsynced_bytes = 0
        for ids in _hash(addresses, shard, cuts):
            file.write(ids.data)
            unsynced_bytes += ids.nbytes
            if unsynced_bytes > _SYNCED_BYTES:
                token_shards.sync(file)
                unsynced_bytes = 0
            step()
        token_shards.sync(file)


def _write_parquet(
    path: Path, addresses: Addresses, shard: Shard, step: Callable[[], None]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = len(addresses.layers) * addresses.n_columns
    boundaries, tokens = shard.boundaries, shard.tokens
    # A row group holds whole documents, about a chunk of tokens.
    steps = boundaries[1:] // _CHUNK_TOKENS
    last = np.flatnonzero(np.append(steps[1:] != steps[:-1], True)) + 1
    cuts = boundaries[last]
    token_type = pa.from_numpy_dtype(tokens.dtype)
    id_type = pa.from_numpy_dtype(ids_dtype(addresses))
    # Lists with 64-bit lengths: one long document can have more than 2^31 ids.
    lists = {"tokens": pa.large_list(token_type), "ids": pa.large_list(id_type)}
    schema = pa.schema({"document": pa.int64(), **lists})
    array_of = pa.LargeListArray.from_arrays
    first = 0
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
            chunks = zip(last, cuts, _hash(addresses, shard, cuts), strict=True)
            for end, cut, ids in chunks:
                start = boundaries[first]
                offsets = boundaries[first : end + 1] - start
                numbers = np.arange(first, end, dtype=np.int64) + shard.first_document
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
                step()
        token_shards.sync(file)


def _hash(addresses: Addresses, shard: Shard, cuts: Any) -> Iterator[NDArray[Any]]:
    """Hash tokens up to each cut in turn.

    Yields:
        Ids without offsets ``[chunk, L, C]``, in an array that the next ones overwrite.
    """
    from engram.addressing.hashing import Hasher

    tokens, hasher = shard.tokens, Hasher(addresses)
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

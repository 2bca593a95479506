"""Reads Megatron's indexed datasets: token ids in a .bin, sequences and documents in an .idx.

The index, in little-endian numbers: nine bytes of magic; u64 version 1; u8 code of the token type;
u64 sequences S; u64 entries D of the document index; i32 ``[S]`` tokens of each sequence; i64
``[S]`` byte of the .bin at which it begins; i64 ``[D]`` first sequence of each document and, last,
S; and, in multimodal sets, i8 ``[S]`` modes. Megatron-LM, Megatron Core, NeMo, GPT-NeoX and
datatrove write it.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.corpus.foreign.foreign_tokens import damaged, map_array, pieces
from engram.corpus.tokens.mapped_tokens import TokenShard
from engram.errors import InputError, MissingFileError
from engram.units import plural

MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<9sQBQQ")
# Token types by their codes; floats are types of vectors.
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}


def read_megatron(path: Path) -> TokenShard:
    """Map a dataset, and check its index against itself and the size of the tokens.

    Args:
        path: Its .bin or .idx.

    Raises:
        MissingFileError: One of the two files is missing.
        CorruptFileError: The index is torn, contradicts itself, or does not fit the tokens.
        InputError: It holds something else than tokens.
    """
    index, tokens = path.with_suffix(".idx"), path.with_suffix(".bin")
    for file in (index, tokens):
        if not file.is_file():
            raise MissingFileError.at(file, "Give a .bin with its .idx beside it.", file=str(file))
    dtype, n_sequences, lengths, pointers, documents = _read_index(index)
    item_bytes = np.dtype(dtype).itemsize
    n_tokens = _check_sequences(index, lengths, pointers, item_bytes)
    if tokens.stat().st_size != n_tokens * item_bytes:
        raise damaged(
            tokens,
            f"{index.name} lists {n_tokens:,} tokens of {item_bytes} bytes, which take "
            f"{n_tokens * item_bytes:,} bytes, and it has {tokens.stat().st_size:,}",
        )
    _check_documents(index, documents, n_sequences)
    # The end of the last document has no sequence that begins there.
    bounds = np.full(len(documents), n_tokens, np.int64)
    inner = documents < n_sequences
    bounds[inner] = pointers[documents[inner]] // item_bytes
    return TokenShard(str(tokens), map_array(tokens, dtype), bounds)


def _read_index(path: Path) -> tuple[str, int, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the token type, the number of sequences, and the index's three arrays."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        raise damaged(path, "it does not begin as an index of Megatron's (MMIDIDX) does")
    _, version, code, n_sequences, n_documents = _HEAD.unpack(head)
    if version != 1:
        raise InputError(
            f"{path} has version {version} of Megatron's index; only 1 is known.",
            "Write it again with Megatron Core's IndexedDatasetBuilder.",
            file=str(path),
            version=version,
        )
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise damaged(path, f"its token type has the code {code}; known are 1 to 8", code=code)
    if "f" in dtype:
        raise InputError(
            f"{path} holds numbers of type {np.dtype(dtype).name}, which cannot be token ids.",
            "Give a dataset of whole numbers.",
            file=str(path),
            dtype=np.dtype(dtype).name,
        )
    sizes = (4 * n_sequences, 8 * n_sequences, 8 * n_documents)
    rest = path.stat().st_size - _HEAD.size - sum(sizes)
    if rest not in (0, n_sequences):
        raise damaged(
            path,
            f"it counts {plural(n_sequences, 'sequence')} and {n_documents:,} boundaries of "
            f"documents, which take {_HEAD.size + sum(sizes):,} bytes, and it has "
            f"{path.stat().st_size:,}",
        )
    at = _HEAD.size
    lengths = map_array(path, "<i4", at, n_sequences)
    pointers = map_array(path, "<i8", at + sizes[0], n_sequences)
    documents = map_array(path, "<i8", at + sizes[0] + sizes[1], n_documents)
    if rest and map_array(path, "i1", at + sum(sizes), n_sequences).any():
        raise InputError(
            f"{path} is multimodal: some of its sequences are not text.",
            "Give a dataset of text alone.",
            file=str(path),
        )
    return dtype, n_sequences, lengths, pointers, documents


def _check_sequences(
    path: Path, lengths: NDArray[Any], pointers: NDArray[Any], item_bytes: int
) -> int:
    """Check that sequences follow one another; return the tokens of all."""
    done = 0
    for piece in pieces(len(lengths)):
        if int(lengths[piece].min()) < 0:
            raise damaged(path, "a sequence has a negative length")
        ends = np.cumsum(lengths[piece], dtype=np.int64) + done
        begins = ends - lengths[piece]
        wrong = np.flatnonzero(pointers[piece] != begins * item_bytes)
        if len(wrong):
            at = int(wrong[0])
            raise damaged(
                path,
                f"sequence {piece.start + at:,} begins at byte {int(pointers[piece][at]):,}, and "
                f"the sequences before it end at {int(begins[at]) * item_bytes:,}",
            )
        done = int(ends[-1])
    return done


def _check_documents(path: Path, documents: NDArray[Any], n_sequences: int) -> None:
    """Check that documents begin with the first sequence, rise, and end with the last one."""
    is_whole = len(documents) and documents[0] == 0 and documents[-1] == n_sequences
    if not is_whole or (documents[1:] < documents[:-1]).any():
        raise damaged(
            path,
            f"its documents do not rise from sequence 0 to {n_sequences:,}",
            "Write it again, with end_document() after every document.",
        )

"""Reads token shards of llm.c: a header of 256 int32 (magic, version, tokens), then token ids.

Documents have no index: whoever writes such a shard puts a token before each of them (GPT-2's
<|endoftext|>, llama 3's <|begin_of_text|>), by which they are found. Which token that is holds for
all shards of a series. A document that goes on in the next shard is two here.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.foreign.foreign_tokens import damaged, map_array, pieces
from engram.corpus.tokens.mapped_tokens import TokenShard
from engram.errors import InputError

_HEADER_BYTES = 1024
# Version and token type by magic: shards of GPT-2's tokens, and of llama 3's.
_KINDS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_QUESTIONS = 20240522


def is_llm_c(path: Path) -> bool:
    """Whether a file begins as a shard of llm.c does, or as its questions do."""
    with suppress(OSError), path.open("rb") as file:  # told by whoever reads it as a text
        return int.from_bytes(file.read(4), "little") in (*_KINDS, _QUESTIONS)
    return False


def read_llm_c(files: Sequence[Path], tokenizer: TokenizerFile) -> list[TokenShard]:
    """Map the shards of a series, and find their documents.

    Args:
        files: The shards, in order.
        tokenizer: Its start-of-text token begins documents where the first shard begins with it.
            Else its end-of-text token does, since a start-of-text token amid a text may stand for
            itself; where that does not occur, the first shard goes on with a document, and the
            start-of-text token begins the others. Where neither occurs, a shard is one document.

    Raises:
        CorruptFileError: A shard does not hold as many tokens as it says.
        InputError: A shard holds questions of an evaluation, is of an unknown version, or the
            tokenizer has neither token.
    """
    tokens = [_map_tokens(file) for file in files]
    marks = [it for it in (tokenizer.bos_id, tokenizer.eos_id) if it is not None]
    if not marks:
        raise InputError(
            f"The tokenizer {tokenizer.name} has neither a start-of-text nor an end-of-text token, "
            f"which begins the documents of {files[0]}.",
            "Give the tokenizer's folder, with its tokenizer_config.json.",
            tokenizer=tokenizer.name,
        )
    first = next((int(part[0]) for part in tokens if len(part)), None)
    if first != marks[0]:
        marks.reverse()
    starts = [np.empty(0, np.int64) for _ in tokens]
    for mark in marks:
        found = [_places(part, mark) for part in tokens]
        if any(map(len, found)):
            starts = found
            break
    return [
        TokenShard(str(file), part, _bounds(places, len(part)))
        for file, part, places in zip(files, tokens, starts, strict=True)
    ]


def _map_tokens(path: Path) -> NDArray[Any]:
    """Map the tokens of a shard, and check its header.

    Raises:
        CorruptFileError: It does not hold as many tokens as it says.
        InputError: It holds questions of an evaluation, or is of an unknown version.
    """
    header = map_array(path, "<i4", 0, min(256, path.stat().st_size // 4))
    magic = int(header[0]) if len(header) else 0
    if magic == _QUESTIONS:
        raise InputError(
            f"{path} holds questions of an evaluation, not documents.",
            "Give a shard of a text.",
            file=str(path),
        )
    if len(header) < 256 or magic not in _KINDS:
        raise damaged(path, "its header is not that of a shard of llm.c")
    version, dtype = _KINDS[magic]
    if int(header[1]) != version:
        raise InputError(
            f"{path} has version {int(header[1])} of llm.c's shards; of its magic {magic} only "
            f"{version} is known.",
            "Write it again with llm.c's write_datafile.",
            file=str(path),
            version=int(header[1]),
        )
    # The number is an int32; a shard of more tokens wraps around.
    n_tokens, stored_bytes = int(header[2]), path.stat().st_size - _HEADER_BYTES
    if n_tokens < 0 or n_tokens * np.dtype(dtype).itemsize != stored_bytes:
        raise damaged(
            path,
            f"its header counts {n_tokens:,} tokens of {np.dtype(dtype).itemsize} bytes, and "
            f"{stored_bytes:,} bytes follow",
        )
    return map_array(path, dtype, _HEADER_BYTES, n_tokens)


def _bounds(starts: NDArray[np.int64], n_tokens: int) -> NDArray[np.int64]:
    """Return the starts of documents ``[documents]`` with the beginning and end of the shard."""
    return np.unique(np.concatenate([[0], starts, [n_tokens]])).astype(np.int64)


def _places(tokens: NDArray[Any], mark: int) -> NDArray[np.int64]:
    """Return where a token occurs."""
    found = [np.flatnonzero(tokens[it] == mark) + it.start for it in pieces(len(tokens))]
    return np.concatenate([np.empty(0, np.int64), *found])

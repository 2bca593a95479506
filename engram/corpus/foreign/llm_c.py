"""Reads token shards of llm.c: a header of 256 int32 (magic, version, tokens), then token ids.

Documents have no index: whoever writes such a shard puts a token before each of them (GPT-2's
<|endoftext|>, llama 3's <|begin_of_text|>), by which they are found. A document that goes on in the
next shard is two here.
"""

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


def read_llm_c(path: Path, tokenizer: TokenizerFile) -> TokenShard:
    """Map a shard, and find its documents.

    Args:
        path: The shard.
        tokenizer: Its start-of-text token begins a document; where that does not occur, its
            end-of-text token; where neither does, the shard is one document.

    Raises:
        CorruptFileError: It does not hold as many tokens as it says.
        InputError: It holds questions of an evaluation, is of an unknown version, or the tokenizer
            has neither token.
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
    marks = [it for it in (tokenizer.bos_id, tokenizer.eos_id) if it is not None]
    if not marks:
        raise InputError(
            f"The tokenizer {tokenizer.name} has neither a start-of-text nor an end-of-text token, "
            f"which begins the documents of {path}.",
            "Give the tokenizer's folder, with its tokenizer_config.json.",
            tokenizer=tokenizer.name,
        )
    tokens = map_array(path, dtype, _HEADER_BYTES, n_tokens)
    places = (_places(tokens, mark) for mark in marks)
    starts = next((it for it in places if len(it)), np.empty(0, np.int64))
    bounds = np.unique(np.concatenate([[0], starts, [n_tokens]])).astype(np.int64)
    return TokenShard(str(path), tokens, bounds)


def _places(tokens: NDArray[Any], mark: int) -> NDArray[np.int64]:
    """Return where a token occurs."""
    found = [np.flatnonzero(tokens[it] == mark) + it.start for it in pieces(len(tokens))]
    return np.concatenate([np.empty(0, np.int64), *found])

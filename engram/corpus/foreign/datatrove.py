"""Reads datatrove's tokenised files: token ids in a .ds, ends of documents in a .ds.index.

Both are plain little-endian numbers, tokens of u16 or u32 and ends of u64. A .ds.metadata, where
there is one, says ``TOKENIZER|BYTES OF A TOKEN`` in its first line and the number of tokens in its
second. A .ds.loss (a mask of tokens that are not to be learnt) is not read.
"""

import re
from pathlib import Path

import numpy as np

from engram.corpus.foreign.foreign_tokens import damaged, map_array
from engram.corpus.tokens.mapped_tokens import TokenShard
from engram.errors import MissingFileError

_DTYPES = {2: "<u2", 4: "<u4"}
# The name ends with the last bar, since a path may have more of them.
_METADATA = re.compile(
    r"(?P<name>.*)\|(?P<item_bytes>\d{1,2})\n(?P<tokens>\d{1,18})(?:\n.*)?", re.S
)
_UNKNOWN = "Unknown Tokenizer"
_MOST_METADATA_BYTES = 2**16


def read_datatrove(path: Path) -> TokenShard:
    """Map a .ds, and check its index and metadata against its size.

    Args:
        path: The .ds.

    Raises:
        MissingFileError: It has no .ds.index: nothing says where its documents end.
        CorruptFileError: The files contradict each other.
    """
    index = path.with_name(f"{path.name}.index")
    if not index.is_file():
        raise MissingFileError.at(
            index, "It says where documents end: write it with save_index.", file=str(index)
        )
    size_bytes = path.stat().st_size
    if index.stat().st_size % 8:
        raise damaged(index, f"its {index.stat().st_size:,} bytes are not a whole number of ends")
    ends = map_array(index, "<u8")
    n_tokens = int(ends[-1]) if len(ends) else 0
    if len(ends) and (ends[1:] < ends[:-1]).any():
        raise damaged(index, "the ends of its documents do not rise")
    found = next((it for it in _DTYPES if n_tokens * it == size_bytes), None)
    if found is None:
        raise damaged(
            path,
            f"{index.name} ends its last document at token {n_tokens:,}, and its {size_bytes:,} "
            "bytes are not as many tokens of 2 or 4 bytes",
        )
    stated = _metadata(path)
    if stated is not None and size_bytes and stated[1:] != (found, n_tokens):
        raise damaged(
            path,
            f"its metadata says {stated[2]:,} tokens of {stated[1]} bytes, and it holds "
            f"{n_tokens:,} of {found}",
        )
    bounds = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])
    return TokenShard(str(path), map_array(path, _DTYPES[found]), bounds)


def stated_tokenizer(path: Path) -> str | None:
    """Return the name of the tokenizer that the metadata of a .ds states, if any."""
    stated = _metadata(path)
    return None if stated is None or not stated[0] or stated[0].startswith(_UNKNOWN) else stated[0]


def _metadata(path: Path) -> tuple[str, int, int] | None:
    """Return the tokenizer, bytes of a token and tokens; None where there is no metadata.

    Raises:
        CorruptFileError: They are not in the file.
    """
    file = path.with_name(f"{path.name}.metadata")
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        text = opened.read(_MOST_METADATA_BYTES).decode("utf-8", "replace")
    match = _METADATA.fullmatch(text)
    if match is None:
        raise damaged(file, "its first lines are not a tokenizer, a size and a number of tokens")
    return match["name"], int(match["item_bytes"]), int(match["tokens"])

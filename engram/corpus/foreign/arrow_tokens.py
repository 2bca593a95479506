"""Reads token ids from a column of lists in .arrow files, as Hugging Face's datasets has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engram.corpus.foreign.foreign_tokens import damaged
from engram.corpus.text.arrow_rows import ArrowStream, open_arrow
from engram.corpus.tokens.mapped_tokens import TokenShard
from engram.errors import InputError

# The column that tokenizers of transformers write.
_COLUMN = "input_ids"


def token_column(files: Sequence[Path], text_key: str | None) -> str | None:
    """Return the column of token ids of a data set; None when its column is of something else.

    Args:
        files: Its files.
        text_key: The column that was asked for; ``input_ids`` when None.

    Raises:
        CorruptFileError: The first file is torn.
        MissingPackageError: pyarrow is not installed.
    """
    if not files:
        return None
    with open_arrow(files[0]) as stream:
        column = text_key or _COLUMN
        return column if _has_ids(stream, column) else None


def read_arrow_tokens(path: Path, column: str) -> list[TokenShard]:
    """Map the record batches of a file; each row is a document.

    Args:
        path: The file.
        column: A column with lists of whole numbers.

    Raises:
        CorruptFileError: The file is torn, offsets of rows do not stay within it, or its column is
            of another type than that of the data set's first file.
        InputError: The column is compressed, or lacks values.
    """
    shards = []
    with open_arrow(path) as stream:
        if not _has_ids(stream, column):
            raise damaged(path, f"its column {column!r} is not lists of whole numbers")
        index = stream.schema.get_field_index(column)
        for batch in iter(stream.next_batch, None):
            shards.append(_shard(path, stream, stream.checked(batch.column(index)), column))
    return shards


def _shard(path: Path, stream: ArrowStream, rows: Any, column: str) -> TokenShard:
    """Return the rows of a record batch."""
    from pyarrow import types

    if types.is_fixed_size_list(rows.type):
        bounds = np.arange(len(rows) + 1, dtype=np.int64) * rows.type.list_size
        values = rows.flatten() if not rows.null_count else rows.values
    else:
        offsets = rows.offsets.to_numpy().astype(np.int64)
        values = rows.values.slice(offsets[0], offsets[-1] - offsets[0])
        bounds = offsets - offsets[0]
    if rows.null_count or values.null_count:
        raise InputError(
            f"{path}: the column {column!r} lacks values in some rows.",
            "Leave such rows out: dataset.filter(lambda row: row[COLUMN]), then save_to_disk.",
            file=str(path),
            column=column,
        )
    begin, size = stream.address
    buffer = values.buffers()[1]
    if len(values) and not begin <= buffer.address < begin + size:
        raise InputError(
            f"{path} is compressed, so that it cannot be read in place.",
            "Write it again with save_to_disk, which does not compress.",
            file=str(path),
        )
    return TokenShard(str(path), values.to_numpy(), bounds)


def _has_ids(stream: ArrowStream, column: str) -> bool:
    """Whether a file has one column of that name, of lists of whole numbers."""
    from pyarrow import types

    if stream.columns.count(column) != 1:
        return False
    kind = stream.schema.field(column).type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_integer(kind.value_type))

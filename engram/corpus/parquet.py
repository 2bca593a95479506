"""The column of texts of a .parquet file, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from engram.corpus.reading_errors import no_column
from engram.corpus.sources import Source
from engram.errors import CorruptFileError, InputError, MissingPackageError

_BATCH_ROWS = 1024
_BATCH_BYTES = 2**20
# Values that are stored as what differs from the one before may be any length, unlike the file.
_SHARED_PREFIXES = "DELTA_BYTE_ARRAY"


def read_rows(
    source: Source, column: str, limit_bytes: int
) -> Iterator[tuple[int, list[Any], int]]:
    """Read a column of the row groups that a source stands for, in bounded memory.

    A file of a few KB may stand for gigabytes of text, when its rows are the same. So values are
    read as they are stored, each different one once, and rows that are the same share a text.

    Args:
        source: The file.
        column: The column, of texts.
        limit_bytes: The longest value that is read.

    Yields:
        The 1-based number of a row in the file, its value and those of the rows after it, and the
        bytes read so far (a fair share of the file's). A value that is too long is `TooLong`.

    Raises:
        InputError: There is no such column, or it holds something else than texts.
        CorruptFileError: The file is truncated or no .parquet.
        MissingPackageError: pyarrow is not installed.
    """
    with _open(source) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise no_column(source, column, names)
        _check_type(source, column, file.schema_arrow.field(column).type)
    with _open(source, column) as file:
        groups = range(file.num_row_groups)[source.begin : source.end]
        firsts = [0, *accumulate(_rows_of_groups(file))]
        rows = firsts[groups.stop] - firsts[groups.start] if groups else 0
        row = firsts[groups.start] + 1 if groups else 1
        done = 0
        for group in groups:
            size = _batch_rows(file.metadata.row_group(group), column)
            for batch in file.iter_batches(size, row_groups=[group], columns=[column]):
                values = _values(batch.column(0), limit_bytes)
                done += len(values)
                yield row, values, (source.size_bytes or 0) * done // rows
                row += len(values)


class TooLong:
    """Stands for a value that was not read because it is too long."""


def _batch_rows(group: Any, column: str) -> int:
    """Choose how many rows are read at a time: about 1 MiB of them as they are stored."""
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema == column:
            if _SHARED_PREFIXES in chunk.encodings:
                return 1
            rows: int = group.num_rows * _BATCH_BYTES // max(chunk.total_uncompressed_size, 1)
            return min(max(rows, 1), _BATCH_ROWS)
    return 1


def _values(array: Any, limit_bytes: int) -> list[Any]:
    """Turn an array, of texts or of numbers of texts in a dictionary, into values."""
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_dictionary(array.type):
        texts = _values(array.dictionary, limit_bytes)
        return [None if index is None else texts[index] for index in array.indices.to_pylist()]
    if types.is_null(array.type):
        return [None] * len(array)
    lengths = pc.binary_length(array)
    if len(array) and (pc.max(lengths).as_py() or 0) > limit_bytes:
        return [
            TooLong if (length or 0) > limit_bytes else array[i].as_py()
            for i, length in enumerate(lengths.to_pylist())
        ]
    values: list[Any] = array.to_pylist()
    return values


def _check_type(source: Source, column: str, stored: Any) -> None:
    from pyarrow import types

    inner = stored.value_type if types.is_dictionary(stored) else stored
    is_text = types.is_string(inner) or types.is_large_string(inner) or types.is_null(inner)
    if not is_text:
        raise InputError(
            f"{source.name}: the column {column!r} holds {stored}, not text.",
            "Name the column of the texts with --text-column.",
            file=source.name,
            type=str(stored),
        )


def rows_of_groups(source: Source) -> list[int]:
    """Return the number of rows of each row group; raises as `read_rows` does."""
    with _open(source) as file:
        return _rows_of_groups(file)


def _rows_of_groups(file: Any) -> list[int]:
    return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


@contextmanager
def _open(source: Source, column: str | None = None) -> Iterator[Any]:
    """Open a file as a stream, since a row group may be larger than memory.

    Args:
        source: The file.
        column: Column whose different values are read once each, as a dictionary.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", f"Reading {source.name}") from None
    try:
        with pq.ParquetFile(
            source.path,
            buffer_size=_BATCH_BYTES,
            pre_buffer=False,
            read_dictionary=None if column is None else [column],
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{source.name} is truncated or not a parquet file: {error}",
            "Fetch it again, or take what can be read with --on-error skip.",
            file=source.name,
        ) from error

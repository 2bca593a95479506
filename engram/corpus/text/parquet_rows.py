"""Reads the text column of a .parquet file, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from engram.corpus.text.reading_errors import no_column
from engram.corpus.text.sources import Source
from engram.errors import CorruptFileError, InputError, MissingPackageError

_MOST_ROWS = 1024
_FEW_ROWS = 4
_BATCH_BYTES = 2**20
_MOST_BYTES = 2**24
_DICTIONARY_PAGE = 2
# Values stored as differences from the previous one may be longer than the file.
_SHARED_PREFIXES = "DELTA_BYTE_ARRAY"


def read_rows(
    source: Source, column: str, limit_bytes: int
) -> Iterator[tuple[int, list[Any], int]]:
    """Read a column of the row groups of a source, in bounded memory.

    A file of a few KB may contain gigabytes of text, since equal rows are stored once. So the
    longest text that may be repeated determines the number of rows to read at a time.

    Args:
        source: The file.
        column: The column with strings.
        limit_bytes: The longest valid value.

    Yields:
        The 1-based number of a row in the file, its value and those of the rows after it, and the
        bytes read so far (a proportional share of the file). A value that is too long is `TooLong`.

    Raises:
        InputError: There is no such column, or it does not contain strings.
        CorruptFileError: The file is truncated or not a .parquet.
        MissingPackageError: pyarrow is not installed.
    """
    with _open(source) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise no_column(source, column, names)
        _check_type(source, column, file.schema_arrow.field(column).type)
        path = source.path or Path(source.name)
        groups = range(file.num_row_groups)[source.begin : source.end]
        firsts = [0, *accumulate(_rows_of_groups(file))]
        rows = firsts[groups.stop] - firsts[groups.start] if groups else 0
        row = firsts[groups.start] + 1 if groups else 1
        done = 0
        for group in groups:
            size = _batch_rows(path, file.metadata.row_group(group), column)
            for batch in file.iter_batches(size, row_groups=[group], columns=[column]):
                values = _values(batch.column(0), limit_bytes)
                done += len(values)
                yield row, values, (source.size_bytes or 0) * done // rows
                row += len(values)


class TooLong:
    """Marker of a value that was not read because it is too long."""


def _batch_rows(path: Path, group: Any, column: str) -> int:
    """Choose the number of rows to read at a time, so that their texts take some MiB."""
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema == column:
            if _SHARED_PREFIXES in chunk.encodings:
                return _FEW_ROWS
            rows: int = group.num_rows * _BATCH_BYTES // max(chunk.total_uncompressed_size, 1)
            return max(1, min(rows, _MOST_ROWS, _MOST_BYTES // _dictionary_bytes(path, chunk)))
    return 1


def _dictionary_bytes(path: Path, chunk: Any) -> int:
    """Return the size of the dictionary of a column, at least 1; no text in it is longer.

    The dictionary is the first page. A page starts with its type (2 is a dictionary) and its size,
    in Thrift's compact form: 0x15 and a zigzag varint for each.
    """
    begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    with path.open("rb") as file:
        file.seek(begin)
        head = file.read(12)
    kind, rest = _whole_number(head)
    size, _ = _whole_number(rest)
    if kind is None or size is None:
        return _MOST_BYTES
    return max(size, 1) if kind == _DICTIONARY_PAGE else 1


def _whole_number(head: bytes) -> tuple[int | None, bytes]:
    """Read an integer field of a page header; None if it is not one."""
    if head[:1] != b"\x15":
        return None, b""
    value = 0
    for place, byte in enumerate(head[1:]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), head[place + 2 :]
    return None, b""


def _values(array: Any, limit_bytes: int) -> list[Any]:
    """Turn an array into values, with `TooLong` for those that are too long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):  # if the file's schema requires it
        array = array.cast(array.type.value_type)
    # This few bytes cannot contain long texts.
    if not pa.types.is_null(array.type) and array.nbytes > limit_bytes:
        lengths = pc.binary_length(array)
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
            f"{source.name}: the column {column!r} must be strings, got {stored}.",
            "Give the column of the texts with --text-column.",
            file=source.name,
            type=str(stored),
        )


def rows_of_groups(source: Source) -> list[int]:
    """Return the number of rows of each row group; raise the errors of `read_rows`."""
    with _open(source) as file:
        return _rows_of_groups(file)


def _rows_of_groups(file: Any) -> list[int]:
    return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


@contextmanager
def _open(source: Source) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", f"Reading {source.name}") from None
    try:
        # Read as a stream, since a row group may be larger than memory.
        with pq.ParquetFile(source.path, buffer_size=_BATCH_BYTES, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{source.name} is truncated or not a parquet file: {error}",
            "Download it again, or use the readable part with --on-error skip.",
            file=source.name,
        ) from error

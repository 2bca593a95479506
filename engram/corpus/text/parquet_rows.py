"""Reads the text column of a .parquet file, row group by row group."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from engram.corpus.text.records import Record, text_of
from engram.corpus.text.sources import Source
from engram.corpus.text.table_columns import check_text_column, column_values
from engram.errors import CorruptFileError, InputError, MissingPackageError

_MOST_ROWS = 1024
_FEW_ROWS = 4
_BATCH_BYTES = 2**20
_MOST_BYTES = 2**24
# The start of a page: its type and its size.
_PAGE_HEAD = re.compile(rb"\x15([\x80-\xff]*[\0-\x7f])\x15([\x80-\xff]*[\0-\x7f])")
_DICTIONARY_PAGE = 2
# Values stored as differences from the previous one may be longer than the file.
_SHARED_PREFIXES = "DELTA_BYTE_ARRAY"


def read_parquet(source: Source, column: str, limit_bytes: int) -> Iterator[Record]:
    """Read a column of the row groups of a source, in bounded memory.

    A file of a few KB may contain gigabytes of text, since equal rows are stored once. So the
    longest text that may be repeated determines the number of rows to read at a time.

    Args:
        source: The file.
        column: The column with strings.
        limit_bytes: The longest valid value.

    Yields:
        The 1-based number of a row in the file, its text, and the bytes read so far (a proportional
        share of the file).

    Raises:
        InputError: There is no such column, or it does not contain strings.
        CorruptFileError: The file is truncated or not a .parquet.
        MissingPackageError: pyarrow is not installed.
    """
    with _open(source) as file:
        check_text_column(source, file.schema_arrow, column)
        path = source.path or Path(source.name)
        groups = range(file.num_row_groups)[source.begin : source.end]
        firsts = [0, *accumulate(rows_of_groups(source))]
        first, done = firsts[groups.start], 0
        for group in groups:
            size = _batch_rows(path, file.metadata.row_group(group), column)
            for batch in file.iter_batches(size, row_groups=[group], columns=[column]):
                row = first + done + 1
                values = column_values(source, row, batch.column(0), limit_bytes)
                done += len(values)
                read_bytes = (source.size_bytes or 0) * done // (firsts[groups.stop] - first)
                for at, value in enumerate(values, row):
                    is_error = isinstance(value, InputError)
                    yield at, value if is_error else text_of(source, at, value, column), read_bytes


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
        head = _PAGE_HEAD.match(file.read(12))
    if head is None:
        return _MOST_BYTES
    kind, size = map(_zigzag, head.groups())
    return max(size, 1) if kind == _DICTIONARY_PAGE else 1


def _zigzag(varint: bytes) -> int:
    """Return the signed integer of a varint."""
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint))
    return (value >> 1) ^ -(value & 1)


def rows_of_groups(source: Source) -> list[int]:
    """Return the number of rows of each row group; raise the errors of `read_parquet`."""
    with _open(source) as file:
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

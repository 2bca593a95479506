"""Reads .arrow files as streams of record batches, and the texts of a column of them.

Hugging Face's datasets writes them. They are mapped, so that a batch takes no memory until its
values are used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from engram.corpus.text.records import Record, text_of
from engram.corpus.text.sources import Source
from engram.corpus.text.table_columns import check_text_column, column_values
from engram.errors import CorruptFileError, InputError, MissingPackageError

_MOST_ROWS = 1024
_BATCH_BYTES = 2**20
# A stream ends with a message of no bytes.
_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_arrow(source: Source, column: str, limit_bytes: int) -> Iterator[Record]:
    """Read a column of the record batches of a source, in bounded memory.

    Args:
        source: The file.
        column: The column with strings.
        limit_bytes: The longest valid value.

    Yields:
        The 1-based number of a row in the file, its text, and the bytes read so far.

    Raises:
        InputError: There is no such column, or it does not contain strings.
        CorruptFileError: The file is truncated or not a stream.
        MissingPackageError: pyarrow is not installed.
    """
    path = source.path or Path(source.name)
    with open_arrow(path) as stream:
        check_text_column(source, stream.schema, column)
        index = stream.schema.get_field_index(column)
        row, before = 1, 0
        for number in count():
            batch = stream.next_batch()
            if batch is None or (source.end is not None and number >= source.end):
                return
            if number < source.begin:
                row += batch.num_rows
                before = stream.offset
                continue
            array = stream.checked(batch.column(index))
            size = max(1, min(_MOST_ROWS, len(array) * _BATCH_BYTES // max(array.nbytes, 1)))
            for at in range(0, len(array), size):
                values = column_values(source, row, array.slice(at, size), limit_bytes)
                for value in values:
                    is_error = isinstance(value, InputError)
                    text = value if is_error else text_of(source, row, value, column)
                    yield row, text, stream.offset - before
                    row += 1


def rows_of_batches(source: Source) -> list[int]:
    """Return the number of rows of each record batch; raise the errors of `read_arrow`."""
    with open_arrow(source.path or Path(source.name)) as stream:
        return [batch.num_rows for batch in iter(stream.next_batch, None)]


class ArrowStream:
    """The record batches of an open .arrow, whose errors name the file.

    Attributes:
        schema: The columns and their types, of pyarrow.
        columns: Names of the columns.
        address: Where the file is mapped, and its size.

    Raises:
        ArrowException: The file breaks off or is not a stream, see `open_arrow`.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._map = pa.memory_map(os.fsencode(path))  # names need not be UTF-8
        mapped = self._map.read_buffer()
        self.address = (mapped.address, mapped.size)
        if mapped[-len(_END) :].to_pybytes() != _END:
            raise pa.ArrowInvalid("its stream has no end")
        self._map.seek(0)
        self._reader = pa.ipc.open_stream(self._map)
        self.schema = self._reader.schema
        self.columns = list(self.schema.names)

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return int(self._map.tell())

    def next_batch(self) -> Any:
        """Return the next record batch; None after the last one."""
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None

    def checked(self, column: Any) -> Any:
        """Return a column whose offsets stay within it, and whose texts are UTF-8."""
        column.validate(full=True)
        return column


@contextmanager
def open_arrow(path: Path) -> Iterator[ArrowStream]:
    """Open an .arrow file.

    Raises:
        CorruptFileError: The file is truncated or not a stream; raised for later uses, too.
        MissingPackageError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", f"Reading {path}") from None
    try:
        yield ArrowStream(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(
            f"{path} is truncated or not a stream of Arrow: {f'{error}'.rstrip('.')}.",
            "Copy it again, or write it again with save_to_disk of Hugging Face's datasets.",
            file=str(path),
        ) from error

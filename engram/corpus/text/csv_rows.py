"""Reads the text column of a .csv file, row by row."""

import csv
import io
from collections.abc import Iterator

from engram.corpus.text.document_bytes import DocumentBytes
from engram.corpus.text.records import Record, no_column, text_of, wrong_record
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import ByteStream
from engram.errors import CorruptFileError, InputError
from engram.units import format_bytes, plural


def read_csv(
    source: Source, stream: ByteStream, column: str, block_bytes: int, limit_bytes: int
) -> Iterator[Record]:
    """Read a column; the first row names the columns, quoted fields may hold newlines.

    Args:
        source: The file.
        stream: Its bytes.
        column: The column.
        block_bytes: Bytes to read at a time.
        limit_bytes: The longest valid row.

    Yields:
        The line of the file where a row starts, and its text. Empty lines are left out.

    Raises:
        InputError: There is no such column.
        CorruptFileError: The first row is not valid, or a row is too long (a quote may not be
            closed).
    """
    line_count = row_characters = 0

    def refuse_long_row(error: InputError | None = None) -> None:
        raise CorruptFileError(
            f"{source.name}:{line_count}: the row that continues here is longer than "
            f"{format_bytes(limit_bytes)}; a quote may not be closed.",
            "Correct the file, or use the rows before it with --on-error skip.",
            file=source.name,
            line=line_count,
            limit_bytes=limit_bytes,
        ) from error

    def lines() -> Iterator[str]:
        nonlocal line_count, row_characters
        for found in DocumentBytes(
            source, stream, "line", block_bytes, limit_bytes, refuse_long_row
        ):
            for data in io.BytesIO(found.data[: found.bounds[-1]]):
                line = data.decode("utf-8", "surrogateescape")
                line_count += 1
                row_characters += len(line)
                if row_characters > limit_bytes:
                    refuse_long_row()
                yield line

    rows = csv.reader(lines(), strict=True, delimiter=source.delimiter)
    place: int | None = None
    while True:
        start = rows.line_num + 1
        row_characters = 0
        row = _next_row(rows, limit_bytes)
        if row is None:
            return
        if isinstance(row, csv.Error):
            if place is None:
                raise CorruptFileError(
                    f"{source.name}:{start}: the names of the columns cannot be read: {row}.",
                    "The first row of a .csv must have its column names, separated by commas.",
                    file=source.name,
                    line=start,
                )
            text: str | InputError = wrong_record(source, start, f"not a row of a .csv: {row}.")
        elif not row:
            continue
        elif place is None:
            if column not in row:
                raise no_column(source, column, row)
            place = row.index(column)
            continue
        elif place < len(row):
            text = text_of(source, start, row[place], column)
        else:
            problem = f"the row has {plural(len(row), 'field')}, and {column!r} is not among them."
            text = wrong_record(source, start, problem)
        yield start, text, stream.stored_offset


def _next_row(rows: Iterator[list[str]], limit_bytes: int) -> list[str] | csv.Error | None:
    """Return the next row, the problem of one that is not valid, or None at the end."""
    # csv has one limit for the whole process.
    limit_before = csv.field_size_limit(limit_bytes)
    try:
        return next(rows, None)
    except csv.Error as error:
        return error
    finally:
        csv.field_size_limit(limit_before)

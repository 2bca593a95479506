"""Reads the text column of a .csv file, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from engram.corpus.text.reading_errors import long_row, no_column, no_header
from engram.corpus.text.records import text_of
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import ByteStream


def read_csv(
    source: Source, stream: ByteStream, column: str, block_bytes: int, limit_bytes: int
) -> Iterator[tuple[int, str | None, str]]:
    """Read a column; the first row names the columns, quoted fields may hold newlines.

    Args:
        source: The file.
        stream: Its bytes.
        column: The column.
        block_bytes: Bytes to read at a time.
        limit_bytes: The longest valid row.

    Yields:
        The line of the file where a row starts, its text, and the problem of a row without text.
        Empty lines are left out.

    Raises:
        InputError: There is no such column.
        CorruptFileError: The first row is not valid, or a row is too long (a quote may not be
            closed).
    """
    lines = _Lines(source, stream, block_bytes, limit_bytes)
    rows = csv.reader(lines, strict=True, delimiter=source.delimiter)
    place: int | None = None
    while True:
        line = rows.line_num + 1
        lines.row_bytes = 0
        problem = ""
        # csv has one limit for the whole process.
        limit_before = csv.field_size_limit(limit_bytes)
        try:
            row = next(rows, None)
        except csv.Error as error:
            problem = str(error)
        finally:
            csv.field_size_limit(limit_before)
        if problem:
            if place is None:
                raise no_header(source, line, problem)
            yield line, None, f"not a row of a .csv: {problem}."
            continue
        if row is None:
            return
        if place is None and row:
            if column not in row:
                raise no_column(source, column, row)
            place = row.index(column)
        elif place is not None and row:
            if place < len(row):
                yield line, *text_of(row[place], column)
            else:
                yield (
                    line,
                    None,
                    f"the row has {len(row)} fields, and {column!r} is not among them.",
                )


class _Lines:
    """The lines of a stream, for csv.reader; raises an error for rows that are too long.

    Attributes:
        row_bytes: Bytes of the current row.
    """

    def __init__(
        self, source: Source, stream: ByteStream, block_bytes: int, limit_bytes: int
    ) -> None:
        self.row_bytes = 0
        self._source, self._stream = source, stream
        self._block_bytes, self._limit_bytes = block_bytes, limit_bytes
        self._lines: Iterator[str] = iter(())
        self._rest: list[bytes] = []
        self._rest_bytes = self._count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        while line is None:
            self._read_on()
            line = next(self._lines, None)
        self._count += 1
        self.row_bytes += len(line)
        self._check(self.row_bytes)
        return line

    def _read_on(self) -> None:
        """Read up to the end of a line."""
        while block := self._stream.read(self._block_bytes):
            cut = block.rfind(b"\n") + 1
            self._rest.append(block[:cut] if cut else block)
            self._rest_bytes += len(self._rest[-1])
            self._check(self.row_bytes + self._rest_bytes - self._block_bytes)
            if cut:
                data = b"".join(self._rest)
                self._rest, self._rest_bytes = [block[cut:]], len(block) - cut
                break
        else:
            data, self._rest, self._rest_bytes = b"".join(self._rest), [], 0
            if not data:
                raise StopIteration
        text = data.decode("utf-8", "surrogateescape")
        self._lines = iter(io.StringIO(text, newline="\n"))

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise long_row(self._source, self._count, self._limit_bytes)

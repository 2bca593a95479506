"""Reads documents from text in blocks: paragraphs, lines, whole files, records or rows."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from engram.corpus.text.blocks import Block, Record, gather
from engram.corpus.text.csv_rows import read_csv
from engram.corpus.text.document_bytes import DocumentBytes, Stretch
from engram.corpus.text.documents import MAX_DOCUMENT_BYTES, Split
from engram.corpus.text.json_values import JsonValues, holds_json_lines
from engram.corpus.text.parquet_rows import TooLong, read_rows
from engram.corpus.text.reading_errors import no_text, not_utf8, too_long, wrong_record, wrong_row
from engram.corpus.text.records import record_text, text_of, text_of_record
from engram.corpus.text.sources import PassedOver, Source, check_options, find_sources
from engram.corpus.text.streams import ByteStream, open_source
from engram.corpus.text.text_options import OnError
from engram.errors import InputError

MAX_LISTED_PROBLEMS = 100
_BLOCK_BYTES = 2**20
# A line that is not blank, from its first character that is not a space.
_FILLED_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


class TextReader:
    """The documents of a text, in blocks.

    Plain text is cut by `split`; the separator belongs to the document before it, so that the
    documents of a file joined together are the file. In a .jsonl or .ndjson file every line is a
    document; in a .json every object, whether one per line, in one list or alone; in a .csv and a
    .parquet every row.

    Args:
        where: File, folder or ``-`` for standard input, see `find_sources`; or the sources.
        split: The end of a document in plain text: blank lines, the end of a line, or of the file;
            ``paragraph`` when None.
        text_key: Key of the text in a record, or column of a table, ``text`` when None. If given,
            standard input is read as JSON lines.
        on_error: The action when a document cannot be read: stop, or skip it and list the error.

    Attributes:
        split: As given.
        text_key: As given.
        on_error: As given.
        sources: The files that are read.
        passed_over: Other entries of the folder.
        errors: Errors of skipped documents, the first hundred.
        skipped: Number of documents skipped; a file that breaks off counts as one.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder holds no text.
        UsageError: A split is given but all are records, or a key but all are plain text.
    """

    def __init__(
        self,
        where: str | Path | Sequence[Source],
        *,
        split: Split | None = None,
        text_key: str | None = None,
        on_error: OnError = "stop",
    ) -> None:
        self.passed_over: list[PassedOver] = []
        if isinstance(where, (str, Path)):
            self.sources, self.passed_over = find_sources(where, text_key is not None)
            check_options(self.sources, split, text_key)
        else:
            self.sources = list(where)
        self.errors: list[InputError] = []
        self.skipped = 0
        self._read_before = 0
        self.split: Split = split or "paragraph"
        self.text_key = text_key
        self.on_error = on_error
        self._key = text_key or "text"

    @property
    def total_bytes(self) -> int | None:
        """Size of all sources as stored; None if one of them is a pipe."""
        sizes = [source.size_bytes for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def __iter__(self) -> Iterator[Block]:
        """Read the documents.

        Yields:
            About 1 MiB of documents at a time, in the order of the files.

        Raises:
            InputError: A document is not valid UTF-8, not a record with text, longer than 64
                MiB, or there is no text at all.
            CorruptFileError: A compressed file is truncated, or a .json is not JSON.
            MissingPackageError: Reading .zst and .parquet needs pyarrow.
        """
        is_empty = True
        for block in self.blocks():
            is_empty = False
            yield block
        if is_empty:
            raise no_text(self.sources, self.errors)

    def blocks(self) -> Iterator[Block]:
        """Read the documents like iterating, except that having none is not an error."""
        self.errors, self.skipped, self._read_before = [], 0, 0
        for source in self.sources:
            read = self._read_rows if source.format == "parquet" else self._read_stream
            try:
                yield from read(source)
            except InputError as error:  # an error of the whole file
                self.wrong(error)

    def _read_bytes(self, stream: ByteStream) -> int:
        """Bytes read of all files so far."""
        return self._read_before + stream.stored_offset

    def _read_stream(self, source: Source) -> Iterator[Block]:
        with open_source(source) as stream:
            try:
                yield from self._reader(source, stream)(source, stream)
            finally:
                self._read_before += stream.stored_offset
            if stream.offset == stream.begin:
                problem = f"{source.name} is empty: there is no text in it."
                self.wrong(InputError(problem, file=source.name))

    def _reader(
        self, source: Source, stream: ByteStream
    ) -> Callable[[Source, ByteStream], Iterator[Block]]:
        """Choose the reader of a source; for a .json by its contents."""
        if source.format == "csv":
            return self._read_csv
        if source.format == "text":
            return self._read_text
        # A part of a .json starts at a line.
        is_lines = source.format == "jsonl" or source.begin or holds_json_lines(stream)
        return self._read_lines if is_lines else self._read_json

    def _read_csv(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        rows = read_csv(source, stream, self._key, _BLOCK_BYTES, MAX_DOCUMENT_BYTES)
        yield from self._gather(
            source,
            (
                Record(line, self._record(source, line, text, problem), self._read_bytes(stream))
                for line, text, problem in rows
            ),
        )

    def _read_json(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        values = JsonValues(source, stream, _BLOCK_BYTES, MAX_DOCUMENT_BYTES)
        yield from self._gather(
            source,
            (
                Record(
                    number,
                    self._record(source, number, *text_of_record(value, self._key)),
                    self._read_bytes(stream),
                )
                for number, value in values
            ),
        )

    def _record(self, source: Source, line: int, text: str | None, problem: str) -> str | None:
        """Return the text of a record, None if it has none and is skipped."""
        if text is None:
            self.wrong(wrong_record(source, line, problem))
        return text

    def _read_rows(self, source: Source) -> Iterator[Block]:
        yield from self._gather(
            source,
            (
                Record(
                    row + i, self._row_text(source, row + i, value), self._read_before + read_bytes
                )
                for row, values, read_bytes in read_rows(source, self._key, MAX_DOCUMENT_BYTES)
                for i, value in enumerate(values)
            ),
        )
        self._read_before += source.size_bytes or 0

    def _row_text(self, source: Source, row: int, value: Any) -> str | None:
        """Return the text of a row of a .parquet, None if it has none and is skipped."""
        if value is TooLong:
            self.wrong(too_long(source, row, MAX_DOCUMENT_BYTES, None, False))
            return None
        text, problem = text_of(value, self._key)
        if text is None:
            self.wrong(wrong_row(source, row, problem))
        return text

    def _read_text(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        for found in self._stretches(source, stream, self.split):
            yield from self._decode(source, found, self._read_bytes(stream))

    def _read_lines(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        """Read records with one per line."""
        for found in self._stretches(source, stream, "line"):
            yield from self._gather(source, self._records(source, found, self._read_bytes(stream)))

    def _stretches(self, source: Source, stream: ByteStream, split: Split) -> DocumentBytes:
        return DocumentBytes(source, stream, split, _BLOCK_BYTES, MAX_DOCUMENT_BYTES, self.wrong)

    def _gather(self, source: Source, records: Iterable[Record]) -> Iterator[Block]:
        return gather(source, records, _BLOCK_BYTES)

    def _decode(self, source: Source, found: Stretch, read_bytes: int) -> Iterator[Block]:
        data, bounds = found.data, found.bounds
        try:
            if self.split == "line":
                text = data[: bounds[-1]].decode()
                texts = list(io.StringIO(text, newline="\n"))
            else:
                texts = [data[start:end].decode() for start, end in pairwise(bounds)]
        except UnicodeDecodeError:
            yield from self._decode_singly(source, found, read_bytes)
        else:
            yield Block(source, found.line, texts, False, read_bytes)

    def _decode_singly(self, source: Source, found: Stretch, read_bytes: int) -> Iterator[Block]:
        """Decode documents, some of which are not UTF-8; a skipped one ends a block."""
        data, bounds, line = found.data, found.bounds, found.line
        documents: Iterable[bytes] = io.BytesIO(data[: bounds[-1]])
        if self.split != "line":
            documents = (data[start:end] for start, end in pairwise(bounds))
        at, first = found.offset, line
        texts: list[str] = []
        for document in documents:
            try:
                texts.append(document.decode())
            except UnicodeDecodeError as error:
                if texts:
                    yield Block(source, first, texts, False, read_bytes)
                self.wrong(not_utf8(source, line, document, at, error))
                texts, first = [], line + document.count(b"\n")
            line += document.count(b"\n")
            at += len(document)
        if texts:
            yield Block(source, first, texts, False, read_bytes)

    def _records(self, source: Source, found: Stretch, read_bytes: int) -> Iterator[Record]:
        """Read the records of lines, without blank lines."""
        data, line, before = found.data, found.line, 0
        for filled in _FILLED_LINE.finditer(data, 0, found.bounds[-1]):
            line += data.count(b"\n", before, filled.start())
            start = data.rfind(b"\n", before, filled.start()) + 1
            before = filled.start()
            record = data[start : filled.end()]
            text = self._record_of_line(source, record, found.offset + start, line)
            yield Record(line, text, read_bytes)

    def _record_of_line(self, source: Source, data: bytes, offset: int, line: int) -> str | None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self.wrong(not_utf8(source, line, data, offset, error))
            return None
        return self._record(source, line, *record_text(text, self._key))

    def wrong(self, error: InputError) -> None:
        """Raise the error of a document, or list it as skipped, depending on `on_error`."""
        if self.on_error == "stop":
            raise error
        self.skipped += 1
        if len(self.errors) < MAX_LISTED_PROBLEMS:
            self.errors.append(error)

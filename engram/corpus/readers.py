"""Documents from text, streamed in blocks: paragraphs, lines, whole files, records or rows."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engram.corpus.csv_rows import read_csv
from engram.corpus.documents import BLANK, MAX_DOCUMENT_BYTES, DocumentEnds, Split
from engram.corpus.json_values import JsonValues, holds_json_lines
from engram.corpus.parquet import TooLong, read_rows
from engram.corpus.reading_errors import (
    blank,
    no_text,
    no_text_at,
    not_utf8,
    too_long,
    wrong_record,
    wrong_row,
)
from engram.corpus.records import record_text, text_of, text_of_record
from engram.corpus.sources import PassedOver, Source, check_options, find_sources
from engram.corpus.streams import ByteStream, open_source
from engram.errors import CorruptFileError, InputError

OnError = Literal["stop", "skip"]

MAX_LISTED_PROBLEMS = 100
_BLOCK_BYTES = 2**20
# From the first character of a line that is not blank to its end.
_FILLED_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


@dataclass(frozen=True, slots=True)
class Block:
    """Documents that follow one another in one file.

    Attributes:
        source: The file, or part of one.
        line: 1-based line of the part where the first document starts; row of a .parquet, number of
            a record in a .json that has them as a list.
        texts: The documents.
        records: Whether each document is one line, row or record.
        read_bytes: Bytes read of all files up to here, as stored.
    """

    source: Source
    line: int
    texts: list[str]
    records: bool
    read_bytes: int

    def position(self, index: int) -> str:
        """Say where a document starts, as ``file:line``."""
        return f"{self.source.name}:{self.source.file_line(self._line(index))}"

    def part(self, start: int, stop: int) -> Block:
        """Return some of the documents."""
        return replace(self, line=self._line(start), texts=self.texts[start:stop])

    def _line(self, index: int) -> int:
        lines = index if self.records else sum(text.count("\n") for text in self.texts[:index])
        return self.line + lines


class _Record(NamedTuple):
    """One record: where it is, its text unless it was skipped, and the bytes read up to it."""

    line: int
    text: str | None
    read_bytes: int


class TextReader:
    """The documents of a text, in blocks.

    A plain text is cut by `split`; the separator belongs to the document before it, so that the
    documents of a file put together are the file. Of a .jsonl or .ndjson file every line is a
    document; of a .json every object, whether one a line, in one list or alone; of a .csv and a
    .parquet every row.

    Args:
        where: File, folder or ``-`` for standard input, see `find_sources`; or the sources.
        split: What ends a document of plain text: blank lines, the end of a line, or of the file;
            ``paragraph`` when None.
        text_key: Key that holds the text of a record, or column of a table, ``text`` when None.
            Standard input is read as JSON lines when it is given.
        on_error: What happens when a document cannot be read: stop, or skip it and list the error.

    Attributes:
        split: As given.
        text_key: As given.
        on_error: As given.
        sources: The files that are read.
        passed_over: What a folder has besides them.
        errors: What was skipped, the first hundred.
        skipped: Number of documents skipped; a file that breaks off counts as one.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder holds no text.
        UsageError: There is a split for records alone, or a key for plain text alone.
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
        """Size of all sources as stored; None when one of them is a pipe."""
        sizes = [source.size_bytes for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def __iter__(self) -> Iterator[Block]:
        """Read the documents.

        Yields:
            About 1 MiB of documents at a time, in the order of the files.

        Raises:
            InputError: A document is not valid UTF-8, not a record with text, longer than 64
                MiB, or there is no text at all.
            CorruptFileError: A packed file is truncated, or a .json is not JSON.
            MissingPackageError: Reading .zst and .parquet needs pyarrow.
        """
        is_empty = True
        for block in self.blocks():
            is_empty = False
            yield block
        if is_empty:
            raise no_text(self.sources)

    def blocks(self) -> Iterator[Block]:
        """Read the documents, as iterating does; but having none is no error."""
        self.errors, self.skipped, self._read_before = [], 0, 0
        for source in self.sources:
            read = self._read_rows if source.format == "parquet" else self._read_stream
            try:
                yield from read(source)
            except CorruptFileError as error:
                self.wrong(error)

    def _read_bytes(self, stream: ByteStream) -> int:
        """Bytes that were read of all files so far."""
        return self._read_before + stream.stored_offset

    def _read_stream(self, source: Source) -> Iterator[Block]:
        with open_source(source) as stream:
            try:
                yield from self._reader(source, stream)(source, stream)
            finally:
                self._read_before += stream.stored_offset
            if stream.offset == 0:
                problem = f"{source.name} is empty: there is no text in it."
                self.wrong(InputError(problem, file=source.name))

    def _reader(
        self, source: Source, stream: ByteStream
    ) -> Callable[[Source, ByteStream], Iterator[Block]]:
        """Choose what reads a source, for a .json by what it holds."""
        if source.format == "csv":
            return self._read_csv
        # A part of a .json begins at a line.
        if source.format != "json" or source.begin:
            return self._read
        is_lines = holds_json_lines(stream)
        return self._read if is_lines else self._read_json

    def _read_csv(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        rows = read_csv(source, stream, self._key, _BLOCK_BYTES, MAX_DOCUMENT_BYTES)
        yield from self._gather(
            source,
            (
                _Record(line, self._record(source, line, text, problem), self._read_bytes(stream))
                for line, text, problem in rows
            ),
        )

    def _read_json(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        values = JsonValues(source, stream, _BLOCK_BYTES, MAX_DOCUMENT_BYTES)
        yield from self._gather(
            source,
            (
                _Record(
                    number,
                    self._record(source, number, *text_of_record(value, self._key)),
                    self._read_bytes(stream),
                )
                for number, value in values
            ),
        )

    def _record(self, source: Source, line: int, text: str | None, problem: str) -> str | None:
        """Return the text of a record, None when it has none and is skipped."""
        if text is None:
            self.wrong(wrong_record(source, line, problem))
        return text

    def _read_rows(self, source: Source) -> Iterator[Block]:
        yield from self._gather(
            source,
            (
                _Record(
                    row + i, self._row_text(source, row + i, value), self._read_before + read_bytes
                )
                for row, values, read_bytes in read_rows(source, self._key, MAX_DOCUMENT_BYTES)
                for i, value in enumerate(values)
            ),
        )
        self._read_before += source.size_bytes or 0

    def _row_text(self, source: Source, row: int, value: Any) -> str | None:
        """Return the text of a row of a .parquet, None when it has none and is skipped."""
        if value is TooLong:
            self.wrong(too_long(source, row, MAX_DOCUMENT_BYTES, None, False))
            return None
        text, problem = text_of(value, self._key)
        if text is None:
            self.wrong(wrong_row(source, row, problem))
        return text

    def _gather(self, source: Source, records: Iterable[_Record]) -> Iterator[Block]:
        """Put records that follow one another into blocks; one that was skipped ends a block."""
        texts: list[str] = []
        first = characters = read_bytes = 0
        broken: CorruptFileError | None = None
        records = iter(records)
        while True:
            try:
                record = next(records, None)
            except CorruptFileError as error:
                record, broken = None, error
            if record is None:
                break
            line, text, now_read = record
            if texts and (text is None or line != first + len(texts) or characters > _BLOCK_BYTES):
                yield Block(source, first, texts, True, read_bytes)
                texts, characters = [], 0
            if text is not None:
                first = first if texts else line
                texts.append(text)
                characters += len(text)
                read_bytes = now_read
        if texts:
            yield Block(source, first, texts, True, read_bytes)
        if broken is not None:
            raise broken

    def _read(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        """Read plain text, or records that are one a line."""
        start = source.begin + stream.offset
        kept = _Kept(start)
        split: Split = "line" if source.has_keys else self.split
        documents = DocumentEnds(split, start)
        at_end = False
        while not at_end:
            block = stream.read(_BLOCK_BYTES)
            at_end = not block
            kept.add(block)
            ends = documents.finish() if at_end else documents.feed(block)
            if at_end and split != "line" and not documents.has_text:
                if ends and start >= kept.offset:
                    self.wrong(blank(source))
                return
            # Blanks before the block may turn out to begin a document, which is then as long as
            # they are and part of the block.
            early = sum(end <= documents.seen - len(block) for end in ends[:1])
            for some in (ends[:early], ends[early:]):
                if some:
                    yield from self._documents(source, stream, kept, [start, *some])
                    start = some[-1]
            if not at_end:
                self._check_length(source, kept, start, documents)

    def _documents(
        self, source: Source, stream: ByteStream, kept: _Kept, bounds: list[int]
    ) -> Iterator[Block]:
        """Read the documents between the bounds, of which only the first may be too long."""
        # One that starts before what is kept was given up.
        bounds = [bound for bound in bounds if bound >= kept.offset]
        if len(bounds) > 1 and bounds[1] - bounds[0] > MAX_DOCUMENT_BYTES:
            self._too_long(source, kept)
            kept.drop(bounds.pop(0))
        if len(bounds) > 1:
            kept.drop(bounds[0])
            yield from self._decode(source, stream, kept, bounds)
        if bounds:
            kept.drop(bounds[-1])

    def _check_length(
        self, source: Source, kept: _Kept, start: int, documents: DocumentEnds
    ) -> None:
        """Give up the document under way when it is too long, and keep nothing of it."""
        end = documents.possible_end
        known_bytes, open_bytes = (
            end - max(start, kept.offset),
            documents.seen - max(end, kept.offset),
        )
        if max(known_bytes, open_bytes) > MAX_DOCUMENT_BYTES:
            self._too_long(source, kept)
            # So many blanks are too long, whether they end this document or begin the next one.
            kept.drop(documents.seen if open_bytes > MAX_DOCUMENT_BYTES else end)
        elif start < kept.offset:
            kept.drop(end)

    def _too_long(self, source: Source, kept: _Kept) -> None:
        data = kept.data()
        what = None if source.has_keys else self.split
        has_lines = b"\n" in (data.lstrip(BLANK) or data)
        binary = no_text_at(source, data, kept.offset)
        self.wrong(binary or too_long(source, kept.line, MAX_DOCUMENT_BYTES, what, has_lines))

    def _decode(
        self, source: Source, stream: ByteStream, kept: _Kept, bounds: list[int]
    ) -> Iterator[Block]:
        """Turn the documents between the bounds into text; what is kept begins with the first."""
        data, offset = kept.data(), kept.offset
        read_bytes = self._read_bytes(stream)
        if source.has_keys:
            yield from self._gather(source, self._lines(source, kept, bounds[-1], read_bytes))
            return
        try:
            if self.split == "line":
                text = data[: bounds[-1] - offset].decode()
                texts = list(io.StringIO(text, newline="\n"))
            else:
                places = pairwise(bound - offset for bound in bounds)
                texts = [data[start:end].decode() for start, end in places]
        except UnicodeDecodeError:
            yield from self._decode_singly(source, kept, bounds, read_bytes)
        else:
            yield Block(source, kept.line, texts, False, read_bytes)

    def _decode_singly(
        self, source: Source, kept: _Kept, bounds: list[int], read_bytes: int
    ) -> Iterator[Block]:
        """Decode documents of which some are not UTF-8; one that is skipped ends a block."""
        data, offset, line = kept.data(), kept.offset, kept.line
        documents: Iterable[bytes] = io.BytesIO(data[: bounds[-1] - offset])
        if self.split != "line":
            documents = (data[start - offset : end - offset] for start, end in pairwise(bounds))
        at, first = offset, line
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

    def _lines(self, source: Source, kept: _Kept, end: int, read_bytes: int) -> Iterator[_Record]:
        """Read the records of lines; those that are blank are left out."""
        data, offset, line = kept.data(), kept.offset, kept.line
        before = 0
        for filled in _FILLED_LINE.finditer(data, 0, end - offset):
            line += data.count(b"\n", before, filled.start())
            start = data.rfind(b"\n", before, filled.start()) + 1
            before = filled.start()
            record = data[start : filled.end()]
            text = self._record_of_line(source, record, offset + start, line)
            yield _Record(line, text, read_bytes)

    def _record_of_line(self, source: Source, data: bytes, offset: int, line: int) -> str | None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self.wrong(not_utf8(source, line, data, offset, error))
            return None
        return self._record(source, line, *record_text(text, self._key))

    def wrong(self, error: InputError) -> None:
        """Stop with an error of a document, or list it as skipped, as `on_error` says."""
        if self.on_error == "stop":
            raise error
        self.skipped += 1
        if len(self.errors) < MAX_LISTED_PROBLEMS:
            self.errors.append(error)


class _Kept:
    """Bytes of a file that are still needed.

    Attributes:
        offset: Where in the file they begin.
        line: Line of the part that they begin in, from 1.
    """

    def __init__(self, offset: int) -> None:
        self.offset, self.line = offset, 1
        self._blocks: list[bytes] = []

    def add(self, block: bytes) -> None:
        """Add the bytes that follow."""
        self._blocks.append(block)

    def data(self) -> bytes:
        """Return all of them."""
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    def drop(self, offset: int) -> None:
        """Let go of those before a place."""
        if offset > self.offset:
            data, size = self.data(), offset - self.offset
            self.line += data.count(b"\n", 0, size)
            self._blocks, self.offset = [data[size:]], offset

"""Documents from text, streamed in blocks: paragraphs, lines, whole files, records or rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from engram.corpus.documents import BLANK, Split, document_ends
from engram.corpus.parquet import read_rows
from engram.corpus.reading_errors import (
    blank,
    no_text,
    no_text_at,
    not_utf8,
    too_long,
    wrong_record,
    wrong_row,
)
from engram.corpus.records import record_text, text_of
from engram.corpus.sources import ByteStream, Source, find_sources, open_source
from engram.errors import CorruptFileError, InputError

OnError = Literal["stop", "skip"]

MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_LISTED_PROBLEMS = 100
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Block:
    """Documents that follow one another in one file.

    Attributes:
        source: The file, or part of one.
        line: 1-based line of the part, or row of a .parquet, where the first document starts.
        texts: The documents.
        records: Whether each document is one line of the file (.jsonl), or one row (.parquet).
        read_bytes: Bytes read of all files up to here, as stored.
    """

    source: Source
    line: int
    texts: list[str]
    records: bool
    read_bytes: int

    def position(self, index: int) -> str:
        """Say where a document starts, as ``file:line``."""
        lines = index if self.records else sum(text.count("\n") for text in self.texts[:index])
        return f"{self.source.name}:{self.source.file_line(self.line) + lines}"


class TextReader:
    """The documents of a text, in blocks.

    A plain text is cut by `split`; the separator belongs to the document before it, so that the
    documents of a file put together are the file. Of a .jsonl file every line is a document, of a
    .parquet file every row.

    Args:
        where: File, folder or ``-`` for standard input, see `find_sources`; or the sources.
        split: What ends a document of plain text: blank lines, the end of a line, or of the file.
        text_key: Key that holds the text of a JSON record, or column of a .parquet, ``text`` when
            None. Standard input is read as JSON lines when it is given.
        on_error: What happens when a document cannot be read: stop, or skip it and list the error.

    Attributes:
        split: As given.
        text_key: As given.
        on_error: As given.
        sources: The files that are read.
        ignored_files: Files of a folder that are not text.
        errors: What was skipped, the first hundred.
        skipped: Number of documents skipped; a file that breaks off counts as one.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder holds no text.
    """

    def __init__(
        self,
        where: str | Path | Sequence[Source],
        *,
        split: Split = "paragraph",
        text_key: str | None = None,
        on_error: OnError = "stop",
    ) -> None:
        self.sources, self.ignored_files = (
            find_sources(where, text_key is not None)
            if isinstance(where, (str, Path))
            else (list(where), 0)
        )
        self.errors: list[InputError] = []
        self.skipped = 0
        self._read_before = 0
        self.split: Split = split
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
            InputError: A document is not valid UTF-8, not a JSON record with text, longer than 64
                MiB, or there is no text at all.
            CorruptFileError: A packed file is truncated.
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
            read = self._read_rows if source.is_parquet else self._read_bytes
            try:
                yield from read(source)
            except CorruptFileError as error:
                self._wrong(error)

    def _read_bytes(self, source: Source) -> Iterator[Block]:
        with open_source(source) as stream:
            try:
                yield from self._read(source, stream)
            finally:
                self._read_before += stream.stored_offset
            if stream.offset == 0:
                problem = f"{source.name} is empty: there is no text in it."
                self._wrong(InputError(problem, file=source.name))

    def _read_rows(self, source: Source) -> Iterator[Block]:
        for row, values, read_bytes in read_rows(source, self._key):
            texts = (self._row_text(source, row + i, value) for i, value in enumerate(values))
            yield from self._gather(source, enumerate(texts, row), self._read_before + read_bytes)
        self._read_before += source.size_bytes or 0

    def _row_text(self, source: Source, row: int, value: Any) -> str | None:
        """Return the text of a row of a .parquet, None when it has none and is skipped."""
        text, problem = text_of(value, self._key)
        if text is None:
            self._wrong(wrong_row(source, row, problem))
        elif len(text.encode()) > MAX_DOCUMENT_BYTES:
            self._wrong(too_long(source, row, MAX_DOCUMENT_BYTES, None, False))
            return None
        return text

    def _gather(
        self, source: Source, places: Iterable[tuple[int, str | None]], read_bytes: int
    ) -> Iterator[Block]:
        """Put documents that follow one another into blocks: one that was skipped ends a block."""
        is_rows = source.records or source.is_parquet
        texts: list[str] = []
        first = 0
        for line, text in places:
            if text is None:
                if texts:
                    yield Block(source, first, texts, is_rows, read_bytes)
                texts = []
                continue
            if not texts:
                first = line
            texts.append(text)
        if texts:
            yield Block(source, first, texts, is_rows, read_bytes)

    def _read(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        split: Split = "line" if source.records else self.split
        rest, offset, line = b"", source.begin, 1
        is_too_long = at_end = False
        while not at_end:
            fresh = stream.read(_BLOCK_BYTES)
            data, at_end, begin = rest + fresh, not fresh, 0
            ends = document_ends(data, split, at_end, len(rest.rstrip(BLANK)))
            # Blocks are shorter than the limit, so that only the first document can be too long.
            if not is_too_long and (ends[0] if ends else len(data)) > MAX_DOCUMENT_BYTES:
                is_too_long = True
                what = None if source.records else split
                has_lines = b"\n" in data.lstrip(BLANK)
                binary = no_text_at(source, data, offset)
                self._wrong(binary or too_long(source, line, MAX_DOCUMENT_BYTES, what, has_lines))
            if is_too_long and not ends:
                # A skipped document is dropped as it comes; a letter stands for it, with the
                # newlines that may be half of the separator behind it.
                tail = data[len(data.rstrip(BLANK)) :]
                rest = b"x" + b"\n" * min(tail.count(b"\n"), 2)
                offset += len(data) - len(rest)
                line += data.count(b"\n") - rest.count(b"\n")
                continue
            if is_too_long:
                is_too_long, begin = False, ends.pop(0)
                line += data.count(b"\n", 0, begin)
            if at_end and split != "line" and offset == 0 and not data.strip(BLANK):
                if data:
                    self._wrong(blank(source))
            elif ends:
                yield from self._decode(source, stream, data, [begin, *ends], offset, line)
                line += data.count(b"\n", begin, ends[-1])
            cut = ends[-1] if ends else begin
            rest, offset = data[cut:], offset + cut

    def _decode(
        self,
        source: Source,
        stream: ByteStream,
        data: bytes,
        bounds: list[int],
        offset: int,
        line: int,
    ) -> Iterator[Block]:
        """Turn the documents between the bounds into text; `line` is where the first one starts."""
        read_bytes = self._read_before + stream.stored_offset
        spans = list(pairwise(bounds))
        if not source.records:
            try:
                texts = [data[start:end].decode() for start, end in spans]
            except UnicodeDecodeError:
                pass
            else:
                yield Block(source, line, texts, False, read_bytes)
                return
        places = self._lines(source, data, spans, offset, line)
        yield from self._gather(source, places, read_bytes)

    def _lines(
        self, source: Source, data: bytes, spans: list[tuple[int, int]], offset: int, line: int
    ) -> Iterator[tuple[int, str | None]]:
        for start, end in spans:
            yield line, self._text(source, data[start:end], offset + start, line)
            line += data.count(b"\n", start, end)

    def _text(self, source: Source, data: bytes, offset: int, line: int) -> str | None:
        """Decode one document; None when it is a blank line of .jsonl, or wrong and skipped."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self._wrong(not_utf8(source, line, data, offset, error))
            return None
        if not source.records:
            return text
        if not text.strip():
            return None
        record, problem = record_text(text, self._key)
        if record is None:
            self._wrong(wrong_record(source, line, offset, problem))
        return record

    def _wrong(self, error: InputError) -> None:
        if self.on_error == "stop":
            raise error
        self.skipped += 1
        if len(self.errors) < MAX_LISTED_PROBLEMS:
            self.errors.append(error)

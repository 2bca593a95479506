"""Reads documents from text in blocks: paragraphs, lines, whole files, records or rows."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from engram.corpus.text.arrow_rows import read_arrow
from engram.corpus.text.blocks import Block
from engram.corpus.text.csv_rows import read_csv
from engram.corpus.text.document_bytes import DocumentBytes, Stretch
from engram.corpus.text.documents import MAX_DOCUMENT_BYTES
from engram.corpus.text.json_values import JsonValues, holds_json_lines
from engram.corpus.text.parquet_rows import read_parquet
from engram.corpus.text.records import Record, text_of_json, text_of_record
from engram.corpus.text.sources import PassedOver, Source, check_options, find_sources
from engram.corpus.text.streams import ByteStream, open_source
from engram.corpus.text.text_options import TextOptions
from engram.errors import CorruptFileError, InputError

MAX_LISTED_PROBLEMS = 100
_BLOCK_BYTES = 2**20
# A line that is not blank, from its first character that is not a space.
_FILLED_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class TextReader:
    """The documents of a text, in blocks.

    Plain text is cut by the options' split; the separator belongs to the document before it, so
    that the documents of a file joined together are the file. In a .jsonl or .ndjson file every
    line is a document; in a .json every object, whether one per line, in one list or alone; in a
    .csv, a .parquet and an .arrow every row.

    Args:
        where: File, folder or ``-`` for standard input, see `find_sources`; or several of them, or
            of sources.
        options: What ends a document, the key of its text, and the action when it cannot be read;
            with a key, standard input is read as JSON lines.

    Attributes:
        options: As given.
        sources: The files that are read.
        passed_over: Other entries of the folders.
        errors: Errors of skipped documents, the first hundred.
        skipped: Number of documents skipped; a file that breaks off counts as one.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder holds no text.
        UsageError: A split is given but all are records, or a key but all are plain text.
    """

    def __init__(
        self,
        where: str | Path | Sequence[str | Path | Source],
        options: TextOptions | None = None,
    ) -> None:
        self.options = options or TextOptions()
        self.sources: list[Source] = []
        self.passed_over: list[PassedOver] = []
        names = [where] if isinstance(where, (str, Path)) else where
        for name in names:
            if isinstance(name, Source):
                self.sources.append(name)
                continue
            files, others = find_sources(name, self.options.text_key is not None)
            self.sources += files
            self.passed_over += others
        if not all(isinstance(name, Source) for name in names):
            check_options(self.sources, self.options.split, self.options.text_key)
        self.errors: list[InputError] = []
        self.skipped = 0
        self._read_before = 0
        self._key = self.options.text_key or "text"

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
            MissingPackageError: Reading .zst, .parquet and .arrow needs pyarrow.
        """
        block: Block | None = None
        for block in self.blocks():
            yield block
        if block is None:
            raise no_text(self.sources, self.errors)

    def blocks(self) -> Iterator[Block]:
        """Read the documents like iterating, except that having none is not an error."""
        self.errors, self.skipped, self._read_before = [], 0, 0
        for source in self.sources:
            try:
                yield from self._read(source)
            except InputError as error:  # an error of the whole file
                self.wrong(error)
            self._read_before += source.size_bytes or 0

    def _read(self, source: Source) -> Iterator[Block]:
        if source.has_rows:
            read = read_parquet if source.format == "parquet" else read_arrow
            yield from self._gather(source, read(source, self._key, MAX_DOCUMENT_BYTES))
        else:
            with open_source(source) as stream:
                yield from self._read_stream(source, stream)
                if stream.offset == stream.begin:
                    message = f"{source.name} is empty: there is no text in it."
                    self.wrong(InputError(message, file=source.name))

    def _read_stream(self, source: Source, stream: ByteStream) -> Iterator[Block]:
        """Read a file; a .json depending on its contents, but a part of one starts at a line."""
        key, limits = self._key, (_BLOCK_BYTES, MAX_DOCUMENT_BYTES)
        if source.format == "csv":
            yield from self._gather(source, read_csv(source, stream, key, *limits))
        elif source.format == "json" and not source.begin and not holds_json_lines(stream):
            values = (
                (number, text_of_record(source, number, value, key), stream.stored_offset)
                for number, value in JsonValues(source, stream, *limits)
            )
            yield from self._gather(source, values)
        else:
            split = "line" if source.has_keys else self.options.splits_by
            read = self._read_lines if source.has_keys else self._read_text
            for found in DocumentBytes(source, stream, split, *limits, self.wrong):
                yield from read(source, found, stream.stored_offset)

    def _read_lines(self, source: Source, found: Stretch, read_bytes: int) -> Iterator[Block]:
        """Read JSON records with one per line, without blank lines."""
        spans = (
            (found.data.rfind(b"\n", 0, filled.start()) + 1, filled.end())
            for filled in _FILLED_LINE.finditer(found.data, 0, found.bounds[-1])
        )
        records = (
            (line, text_of_json(source, line, text, self._key), read_bytes)
            if isinstance(text, str)
            else (line, text, read_bytes)
            for line, text, _ in _decoded(source, found, spans, read_bytes)
        )
        yield from self._gather(source, records)

    def _read_text(self, source: Source, found: Stretch, read_bytes: int) -> Iterator[Block]:
        data, bounds = found.data, found.bounds
        try:
            if self.options.splits_by == "line":
                texts = list(io.StringIO(data[: bounds[-1]].decode(), newline="\n"))
            else:
                texts = [data[start:end].decode() for start, end in pairwise(bounds)]
        except UnicodeDecodeError:
            spans: Iterable[tuple[int, int]] = pairwise(bounds)
            if self.options.splits_by == "line":
                spans = (line.span() for line in _LINE.finditer(data, 0, bounds[-1]))
            documents = _decoded(source, found, spans, read_bytes)
            yield from self._gather(source, documents, are_records=False)
        else:
            yield Block(source, found.line, texts, False, self._read_before + read_bytes)

    def _gather(
        self, source: Source, records: Iterable[Record], are_records: bool = True
    ) -> Iterator[Block]:
        """Combine consecutive records into blocks; one without text ends a block.

        Raises:
            CorruptFileError: The file is truncated; raised after the records before the end.
        """
        texts: list[str] = []
        first = characters = read_bytes = 0
        broken: CorruptFileError | None = None
        try:
            for line, text, now_read in records:
                is_full = characters > _BLOCK_BYTES or line != first + len(texts)
                if texts and (isinstance(text, InputError) or (are_records and is_full)):
                    yield Block(source, first, texts, are_records, self._read_before + read_bytes)
                    texts, characters = [], 0
                if isinstance(text, InputError):
                    self.wrong(text)
                    continue
                first = first if texts else line
                texts.append(text)
                characters += len(text)
                read_bytes = now_read
        except CorruptFileError as error:
            broken = error
        if texts:
            yield Block(source, first, texts, are_records, self._read_before + read_bytes)
        if broken is not None:
            raise broken

    def wrong(self, error: InputError) -> None:
        """Raise the error of a document, or list it as skipped, depending on the options."""
        if self.options.on_error == "stop":
            raise error
        self.skipped += 1
        if len(self.errors) < MAX_LISTED_PROBLEMS:
            self.errors.append(error)


def no_text(sources: Sequence[Source], skipped: Sequence[InputError]) -> InputError:
    """Return the error for a text without documents, or with all of them skipped."""
    names = ", ".join(source.name for source in sources[:3])
    first = f" Skipped: {skipped[0].message}" if skipped else ""
    hint = skipped[0].hint if skipped else ""
    return InputError(f"There is no text in {names}.{first}", hint, files=len(sources))


def _decoded(
    source: Source, found: Stretch, spans: Iterable[tuple[int, int]], read_bytes: int
) -> Iterator[Record]:
    """Decode spans of a stretch, each on its own."""
    line, before = found.line, 0
    for start, end in spans:
        line += found.data.count(b"\n", before, start)
        before, data = start, found.data[start:end]
        try:
            yield line, data.decode(), read_bytes
        except UnicodeDecodeError as error:
            bad = source.file_line(line) + data.count(b"\n", 0, error.start)
            at = found.offset + start + error.start
            looks = " This looks like a binary file." if b"\0" in data else ""
            invalid = InputError(
                f"{source.name}:{bad}: byte {at:,} (0x{data[error.start]:02x}) is not valid UTF-8: "
                f"{error.reason}.{looks}",
                "Convert the file to UTF-8, or leave such documents out with --on-error skip.",
                file=source.name,
                line=bad,
                byte_offset=at,
            )
            yield line, invalid, read_bytes

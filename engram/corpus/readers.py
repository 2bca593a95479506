"""Documents from text, streamed in blocks: paragraphs, lines, whole files, records or rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from engram.corpus.parquet import read_rows
from engram.corpus.sources import ByteStream, Source, find_sources, open_source
from engram.errors import CorruptFileError, InputError
from engram.units import format_bytes

Split = Literal["paragraph", "line", "file"]
OnError = Literal["stop", "skip"]

MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_LISTED_PROBLEMS = 100
_BLOCK_BYTES = 2**20

# A paragraph ends with all the blank lines behind it; a blank line holds nothing but spaces, tabs
# and carriage returns.
_BREAKS = {"paragraph": re.compile(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*"), "line": re.compile(rb"\n")}
_BLANK = b" \t\r\n"
_BLANK_REST = re.compile(rb"[ \t\r]*\Z")


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
        return f"{self.source.name}:{_line(self.source, self.line) + lines}"


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
        self._split: Split = split
        self._text_key = text_key or "text"
        self._on_error = on_error

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
        for row, values, read_bytes in read_rows(source, self._text_key):
            texts = (self._row_text(source, row + i, value) for i, value in enumerate(values))
            yield from self._gather(source, enumerate(texts, row), self._read_before + read_bytes)
        self._read_before += source.size_bytes or 0

    def _row_text(self, source: Source, row: int, value: Any) -> str | None:
        """Return the text of a row of a .parquet, None when it has none and is skipped."""
        text, problem = _text_of(value, self._text_key)
        if text is not None and len(text.encode()) > MAX_DOCUMENT_BYTES:
            self._wrong(_too_long(source, row, "line"))
            return None
        if text is None:
            self._wrong(
                InputError(
                    f"{source.name}:{row}: {problem}",
                    "Leave such rows out with --on-error skip.",
                    file=source.name,
                    row=row,
                )
            )
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
        split: Split = "line" if source.records else self._split
        rest, offset, line = b"", source.begin, 1
        is_too_long = at_end = False
        while not at_end:
            fresh = stream.read(_BLOCK_BYTES)
            data, at_end, begin = rest + fresh, not fresh, 0
            ends = document_ends(data, split, at_end, len(rest.rstrip(_BLANK)))
            # Blocks are shorter than the limit, so that only the first document can be too long.
            if not is_too_long and (ends[0] if ends else len(data)) > MAX_DOCUMENT_BYTES:
                is_too_long = True
                self._wrong(_too_long(source, line, split))
            if is_too_long and not ends:
                # A skipped document is dropped as it comes; a letter stands for it, with the
                # newlines that may be half of the separator behind it.
                tail = data[len(data.rstrip(_BLANK)) :]
                rest = b"x" + b"\n" * min(tail.count(b"\n"), 2)
                offset += len(data) - len(rest)
                line += data.count(b"\n") - rest.count(b"\n")
                continue
            if is_too_long:
                is_too_long, begin = False, ends.pop(0)
                line += data.count(b"\n", 0, begin)
            if ends:
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
            at = offset + error.start
            line = _line(source, line) + data.count(b"\n", 0, error.start)
            self._wrong(
                InputError(
                    f"{source.name}:{line}: byte {at:,} (0x{data[error.start]:02x}) is not valid "
                    f"UTF-8: {error.reason}.",
                    "Convert the file to UTF-8, or leave such documents out with --on-error skip.",
                    file=source.name,
                    line=line,
                    byte_offset=at,
                )
            )
            return None
        if not source.records:
            return text
        if not text.strip():
            return None
        record, problem = _record_text(text, self._text_key)
        if record is None:
            line = _line(source, line)
            self._wrong(
                InputError(
                    f"{source.name}:{line}: {problem}",
                    "Mend the line, name the key with --text-key, or leave such lines out with "
                    "--on-error skip.",
                    file=source.name,
                    line=line,
                    byte_offset=offset,
                )
            )
        return record

    def _wrong(self, error: InputError) -> None:
        if self._on_error == "stop":
            raise error
        self.skipped += 1
        if len(self.errors) < MAX_LISTED_PROBLEMS:
            self.errors.append(error)


def document_ends(data: bytes, split: Split, at_end: bool, begin: int) -> list[int]:
    """Find where documents end for certain; what follows the last end waits for more bytes.

    No document ends in the first `begin` bytes.
    """
    ends: list[int] = []
    if split != "file":
        ends = [match.end() for match in _BREAKS[split].finditer(data, begin)]
    if split == "paragraph" and ends:
        # Blank lines may go on in the next block; those before the first text belong to it.
        if _BLANK_REST.match(data, ends[-1]):
            ends.pop()
        if ends and ends[0] <= len(data) - len(data.lstrip(_BLANK)):
            del ends[0]
    if at_end and data and (not ends or ends[-1] < len(data)):
        ends.append(len(data))
    return ends


def _record_text(line: str, key: str) -> tuple[str | None, str]:
    """Read the text of a JSON record, or say what is wrong with it."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}."
    if not isinstance(record, dict):
        return None, f"a JSON {type(record).__name__}, not an object."
    if key not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        return None, f"the record has no key {key!r}; its keys are {keys}."
    return _text_of(record[key], key)


def _text_of(text: Any, key: str) -> tuple[str | None, str]:
    """Return the text of a record, or say what is wrong with it."""
    if not isinstance(text, str):
        return None, f"{key!r} is a {type(text).__name__}, not a text."
    if not text:
        return None, f"{key!r} is an empty text."
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return None, f"{key!r} holds half of a surrogate pair at character {error.start}."
    return text, ""


def _line(source: Source, line: int) -> int:
    """Turn a line of a part into one of the file; rows of a .parquet count from its start."""
    return line if source.is_parquet else line + source.lines_before()


def no_text(sources: Sequence[Source]) -> InputError:
    """Say that there is nothing to read."""
    names = ", ".join(source.name for source in sources[:3])
    return InputError(f"There is no text in {names}.", files=len(sources))


def _too_long(source: Source, line: int, split: Split) -> InputError:
    line = _line(source, line)
    splits = {"file": "--split paragraph or --split line", "paragraph": "--split line"}
    smaller = "" if source.records else splits.get(split, "")
    return InputError(
        f"{source.name}:{line}: the document that starts here is longer than "
        f"{format_bytes(MAX_DOCUMENT_BYTES)}.",
        f"Cut the text smaller with {smaller}."
        if smaller
        else "Cut the text into smaller files, or leave such documents out with --on-error skip.",
        file=source.name,
        line=line,
        limit_bytes=MAX_DOCUMENT_BYTES,
    )

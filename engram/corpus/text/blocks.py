"""Blocks of consecutive documents of one file, with their positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from engram.corpus.text.sources import Source
from engram.errors import CorruptFileError


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive documents of one file.

    Attributes:
        source: The file, or part of one.
        line: 1-based line of the part where the first document starts; the row in a .parquet, the
            number of the record in a .json with a list of them.
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
        """Return the start of a document as ``file:line``."""
        return f"{self.source.name}:{self.source.file_line(self._line(index))}"

    def part(self, start: int, stop: int) -> Block:
        """Return some of the documents."""
        return replace(self, line=self._line(start), texts=self.texts[start:stop])

    def _line(self, index: int) -> int:
        lines = index if self.records else sum(text.count("\n") for text in self.texts[:index])
        return self.line + lines


class Record(NamedTuple):
    """One record: its position, its text unless it was skipped, and the bytes read so far."""

    line: int
    text: str | None
    read_bytes: int


def gather(source: Source, records: Iterable[Record], block_characters: int) -> Iterator[Block]:
    """Combine consecutive records into blocks; a skipped record ends a block.

    Args:
        source: Their file.
        records: The records.
        block_characters: Approximate characters per block.

    Raises:
        CorruptFileError: The file is truncated; raised after the records before the end.
    """
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
        if texts and (text is None or line != first + len(texts) or characters > block_characters):
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

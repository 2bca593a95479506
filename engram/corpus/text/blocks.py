"""Blocks of consecutive documents of one file, with their positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engram.corpus.text.sources import Source


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

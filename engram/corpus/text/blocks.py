"""Blocks of consecutive documents with their positions, and groups of consecutive items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from engram.corpus.text.sources import Source

T = TypeVar("T")


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


def grouped(items: Iterable[T], size_of: Callable[[T], int], enough: int) -> Iterator[list[T]]:
    """Group consecutive items.

    Args:
        items: The items.
        size_of: Returns the size of an item.
        enough: Size at which a group is complete.

    Yields:
        The groups, each as soon as it is complete; the last one may be smaller.
    """
    group: list[T] = []
    size = 0
    for item in items:
        group.append(item)
        size += size_of(item)
        if size >= enough:
            yield group
            group, size = [], 0
    if group:
        yield group

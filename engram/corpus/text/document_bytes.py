"""Cuts plain text, or records in lines, into documents, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engram.corpus.text.documents import BLANK, DocumentEnds, Split
from engram.corpus.text.reading_errors import binary_file, too_long
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import ByteStream
from engram.errors import InputError


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive documents.

    Attributes:
        offset: Byte of the file at which they start.
        line: 1-based line of the part in which they start.
        data: Their bytes, and perhaps more.
        bounds: The start of each in the data, and the end of the last; for lines, only the first
            and some after it.
    """

    offset: int
    line: int
    data: bytes
    bounds: list[int]


class DocumentBytes:
    """Cuts the bytes of a source into documents; drops documents that are too long as they come.

    Args:
        source: The source.
        stream: Its bytes.
        split: The end of a document.
        block_bytes: Bytes to read at a time; fewer than the limit.
        limit_bytes: The longest valid document.
        wrong: Called with the error of a document that is left out; may raise it.
    """

    def __init__(
        self,
        source: Source,
        stream: ByteStream,
        split: Split,
        block_bytes: int,
        limit_bytes: int,
        wrong: Callable[[InputError], None],
    ) -> None:
        self._source, self._stream, self._split = source, stream, split
        self._block_bytes, self._limit_bytes = block_bytes, limit_bytes
        self._wrong = wrong
        self._kept = _Kept(source.begin + stream.offset)

    def __iter__(self) -> Iterator[Stretch]:
        """Read the documents, in stretches of about a block."""
        stream, kept = self._stream, self._kept
        start = kept.offset
        documents = DocumentEnds(self._split, start)
        at_end = False
        while not at_end:
            block = stream.read(self._block_bytes)
            at_end = not block
            kept.add(block)
            ends = documents.finish() if at_end else documents.feed(block)
            if at_end and self._split != "line" and not documents.has_text:
                if ends and start >= kept.offset:
                    name = self._source.name
                    self._wrong(InputError(f"{name} contains only blank lines.", file=name))
                return
            # White space before the block may turn out to start a document, whose length then
            # includes it and a part of the block.
            early = sum(end <= documents.seen - len(block) for end in ends[:1])
            for some in (ends[:early], ends[early:]):
                if some:
                    yield from self._documents([start, *some])
                    start = some[-1]
            if not at_end:
                self._check_length(start, documents)

    def _documents(self, bounds: list[int]) -> Iterator[Stretch]:
        """Return the documents between the bounds, of which only the first may be too long."""
        kept = self._kept
        # A document that starts before the kept bytes was dropped.
        bounds = [bound for bound in bounds if bound >= kept.offset]
        if len(bounds) > 1 and bounds[1] - bounds[0] > self._limit_bytes:
            self._give_up()
            kept.drop(bounds.pop(0))
        if len(bounds) > 1:
            kept.drop(bounds[0])
            places = [bound - kept.offset for bound in bounds]
            yield Stretch(kept.offset, kept.line, kept.data(), places)
        if bounds:
            kept.drop(bounds[-1])

    def _check_length(self, start: int, documents: DocumentEnds) -> None:
        """Drop the current document if it is too long."""
        kept, end = self._kept, documents.possible_end
        known_bytes = end - max(start, kept.offset)
        open_bytes = documents.seen - max(end, kept.offset)
        if max(known_bytes, open_bytes) > self._limit_bytes:
            self._give_up()
            # This much white space is too long, whether it ends this document or starts the next.
            kept.drop(documents.seen if open_bytes > self._limit_bytes else end)
        elif start < kept.offset:
            kept.drop(end)

    def _give_up(self) -> None:
        """Report the current document as too long, or as binary if it is not text."""
        data, source = self._kept.data(), self._source
        at = data.find(b"\0")
        try:
            data.decode()
        except UnicodeDecodeError as error:
            # The last character may continue after the data.
            if error.start < len(data) - 3:
                at = error.start if at < 0 else min(at, error.start)
        if at >= 0:
            self._wrong(binary_file(source, self._kept.offset + at, data[at]))
            return
        split = None if source.has_keys else self._split
        has_lines = b"\n" in (data.lstrip(BLANK) or data)
        self._wrong(too_long(source, self._kept.line, self._limit_bytes, split, has_lines))


class _Kept:
    """A buffer of the bytes of a file that are still needed.

    Attributes:
        offset: Byte of the file at which they start.
        line: 1-based line of the part in which they start.
    """

    def __init__(self, offset: int) -> None:
        self.offset, self.line = offset, 1
        self._blocks: list[bytes] = []

    def add(self, block: bytes) -> None:
        """Add the bytes that follow."""
        self._blocks.append(block)

    def data(self) -> bytes:
        """Return all bytes."""
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    def drop(self, offset: int) -> None:
        """Drop the bytes before a position."""
        if offset > self.offset:
            data, size = self.data(), offset - self.offset
            self.line += data.count(b"\n", 0, size)
            self._blocks, self.offset = [data[size:]], offset

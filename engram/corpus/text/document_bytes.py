"""Cuts plain text, or records in lines, into documents, as bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engram.corpus.text.documents import BLANK, DocumentEnds, Split
from engram.corpus.text.records import too_long
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import ByteStream, binary_file
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
        # The bytes that are still needed, and the byte and line at which they start.
        self._blocks: list[bytes] = []
        self._offset, self._line = source.begin + stream.offset, 1

    def __iter__(self) -> Iterator[Stretch]:
        """Read the documents, in stretches of about a block."""
        start = self._offset
        documents = DocumentEnds(self._split, start)
        while block := self._stream.read(self._block_bytes):
            self._blocks.append(block)
            ends = documents.feed(block)
            # White space before the block may turn out to start a document, whose length then
            # includes it and a part of the block.
            early = sum(end <= documents.seen - len(block) for end in ends[:1])
            for some in (ends[:early], ends[early:]):
                if some:
                    yield from self._documents([start, *some])
                    start = some[-1]
            self._check_length(start, documents)
        ends = documents.finish()
        if self._split == "line" or documents.has_text:
            yield from self._documents([start, *ends])
        elif ends and start >= self._offset:
            message = f"{self._source.name} contains only blank lines."
            self._wrong(InputError(message, file=self._source.name))

    def _documents(self, bounds: list[int]) -> Iterator[Stretch]:
        """Return the documents between the bounds, of which only the first may be too long."""
        # A document that starts before the kept bytes was dropped.
        bounds = [bound for bound in bounds if bound >= self._offset]
        if len(bounds) > 1 and bounds[1] - bounds[0] > self._limit_bytes:
            self._give_up()
            self._drop(bounds.pop(0))
        if len(bounds) > 1:
            self._drop(bounds[0])
            places = [bound - self._offset for bound in bounds]
            yield Stretch(self._offset, self._line, self._data(), places)
        if bounds:
            self._drop(bounds[-1])

    def _check_length(self, start: int, documents: DocumentEnds) -> None:
        """Drop the current document if it is too long."""
        end = documents.possible_end
        known_bytes = end - max(start, self._offset)
        open_bytes = documents.seen - max(end, self._offset)
        if max(known_bytes, open_bytes) > self._limit_bytes:
            self._give_up()
            # This much white space is too long, whether it ends this document or starts the next.
            self._drop(documents.seen if open_bytes > self._limit_bytes else end)
        elif start < self._offset:
            self._drop(end)

    def _give_up(self) -> None:
        """Report the current document as too long, or as binary if it is not text."""
        data, source = self._data(), self._source
        at = data.find(b"\0")
        try:
            data.decode()
        except UnicodeDecodeError as error:
            # The last character may continue after the data.
            if error.start < len(data) - 3:
                at = error.start if at < 0 else min(at, error.start)
        if at >= 0:
            self._wrong(binary_file(source, self._offset + at, data[at]))
            return
        split = None if source.has_keys else self._split
        has_lines = b"\n" in (data.lstrip(BLANK) or data)
        self._wrong(too_long(source, self._line, self._limit_bytes, split, has_lines))

    def _data(self) -> bytes:
        """Return the kept bytes, as one block."""
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    def _drop(self, offset: int) -> None:
        """Drop the bytes before a position."""
        if offset > self._offset:
            data, size = self._data(), offset - self._offset
            self._line += data.count(b"\n", 0, size)
            self._blocks, self._offset = [data[size:]], offset

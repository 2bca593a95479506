"""Finds the ends of documents in plain text that is read in blocks."""

import re
from typing import Literal

Split = Literal["paragraph", "line", "file"]

MAX_DOCUMENT_BYTES = 64 * 2**20
BLANK = b" \t\r\n"
# At least two newlines in white space, up to the last one: blank lines belong to the document
# before them, the indentation of the next line does not.
_BLANK_LINES = re.compile(rb"\n[ \t\r]*\n(?:[ \t\r\n]*\n)?")


class DocumentEnds:
    """Finds the ends of documents, in linear time, without keeping text.

    A line ends with its newline, a file with its last byte. A paragraph ends with all the blank
    lines after it; a blank line holds nothing but spaces, tabs and carriage returns. Blank lines
    before the first text of a file belong to its first paragraph.

    Args:
        split: The end of a document.
        begin: Position at which the text starts; ends are counted from the same origin.

    Attributes:
        seen: End of the blocks so far.
        has_text: Whether there was anything except white space.
    """

    def __init__(self, split: Split, begin: int = 0) -> None:
        self.seen = begin
        self.has_text = False
        self._split, self._ended = split, begin
        # Number of newlines in the white space at the end of the blocks so far, and the last one's
        # end.
        self._newlines, self._last_line = 0, begin

    @property
    def possible_end(self) -> int:
        """End of the current document, unless the next block continues it."""
        return self._last_line if self.has_text and self._newlines > 1 else self.seen

    def feed(self, block: bytes) -> list[int]:
        """Add the next bytes.

        Returns:
            The ends that are certain now, ascending; for lines, which the caller can find in the
            text, only the first and the last. The first end may be before the block: blank lines
            end a paragraph only if text follows them.
        """
        before, self.seen = self.seen, self.seen + len(block)
        if self._split == "paragraph":
            ends = self._paragraphs(block, before)
        else:
            self.has_text = self.has_text or bool(block.strip(BLANK))
            ends = []
            if self._split == "line" and b"\n" in block:
                ends = sorted({before + at + 1 for at in (block.index(b"\n"), block.rindex(b"\n"))})
        self._ended = max([self._ended, *ends[-1:]])
        return ends

    def finish(self) -> list[int]:
        """Return the end of the text if a document ends there that had not ended before."""
        return [self.seen] if self.seen > self._ended else []

    def _paragraphs(self, block: bytes, before: int) -> list[int]:
        first = len(block) - len(block.lstrip(BLANK))
        self._add_blanks(block[:first], before)
        if first == len(block):
            return []
        ends = [self._last_line] if self.has_text and self._newlines > 1 else []
        last = len(block.rstrip(BLANK))
        ends += [before + match.end() for match in _BLANK_LINES.finditer(block, first, last)]
        self.has_text, self._newlines = True, 0
        self._add_blanks(block[last:], before + last)
        return ends

    def _add_blanks(self, blanks: bytes, begin: int) -> None:
        newlines = blanks.count(b"\n")
        if newlines:
            self._newlines += newlines
            self._last_line = begin + blanks.rindex(b"\n") + 1

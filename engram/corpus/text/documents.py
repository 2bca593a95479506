"""Finds the ends of documents in a plain text whose bytes come in blocks."""

from __future__ import annotations

import re
from typing import Literal

Split = Literal["paragraph", "line", "file"]

MAX_DOCUMENT_BYTES = 64 * 2**20
BLANK = b" \t\r\n"
# Two newlines or more among blanks, up to the last one: blank lines belong to the document before
# them, what indents the next line does not.
_BLANK_LINES = re.compile(rb"\n[ \t\r]*\n(?:[ \t\r\n]*\n)?")


class DocumentEnds:
    """Finds where documents end, in linear time, and holds none of the text.

    A line ends with its newline, a file with its last byte. A paragraph ends with all the blank
    lines after it; a blank line holds nothing but spaces, tabs and carriage returns. Blank lines
    before the first text of a file belong to its first paragraph.

    Args:
        split: What ends a document.
        begin: Where the text begins; ends are counted from the same place.

    Attributes:
        seen: End of the blocks so far.
        has_text: Whether there was anything but blanks.
    """

    def __init__(self, split: Split, begin: int = 0) -> None:
        self.seen = begin
        self.has_text = False
        self._split, self._ended = split, begin
        # Of the blanks at the end of what was seen: how many newlines, and the end of the last.
        self._newlines, self._last_line = 0, begin

    @property
    def possible_end(self) -> int:
        """End of the document that is under way, unless it goes on with what comes next."""
        return self._last_line if self.has_text and self._newlines > 1 else self.seen

    def feed(self, block: bytes) -> list[int]:
        """Take in the next bytes.

        Returns:
            The ends that are certain now, ascending; of lines, which whoever has the text can tell
            apart, only the first and the last. The first end may lie before the block: whether
            blank lines end a paragraph is known when text comes after them.
        """
        before, self.seen = self.seen, self.seen + len(block)
        if self._split == "paragraph":
            ends = self._paragraphs(block, before)
        else:
            self.has_text = self.has_text or bool(block.strip(BLANK))
            ends = []
            if self._split == "line" and b"\n" in block:
                ends = sorted({before + at + 1 for at in (block.index(b"\n"), block.rindex(b"\n"))})
        if ends:
            self._ended = ends[-1]
        return ends

    def finish(self) -> list[int]:
        """Return the end of the text when a document ends there that did not end before."""
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

"""Where the documents of a plain text end, in its bytes."""

from __future__ import annotations

import re
from typing import Literal

Split = Literal["paragraph", "line", "file"]

BLANK = b" \t\r\n"
# A paragraph ends with all the blank lines behind it; a blank line holds nothing but spaces, tabs
# and carriage returns.
_BREAKS = {"paragraph": re.compile(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*"), "line": re.compile(rb"\n")}
_BLANK_REST = re.compile(rb"[ \t\r]*\Z")


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
        if ends and ends[0] <= len(data) - len(data.lstrip(BLANK)):
            del ends[0]
    if at_end and data and (not ends or ends[-1] < len(data)):
        ends.append(len(data))
    return ends

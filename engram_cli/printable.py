"""Escapes control characters, so that contents of files cannot control the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Control characters except tab and newline, which commands print themselves; marks that change
# the direction of text; half surrogates, which represent bytes of names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a string with its control characters written as escapes, such as ``\x1b``."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Printable:
    """A Rich renderable whose text is printable; the styles that Rich adds stay.

    Args:
        renderable: Any other renderable.
    """

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.segment import Segment

        for segment in console.render(self._renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield Segment(text, segment.style, segment.control)

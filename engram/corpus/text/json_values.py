"""Reads the JSON values of a file, in one array or in sequence, in bounded memory."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from engram.corpus.text.documents import BLANK, MAX_DOCUMENT_BYTES
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import ByteStream
from engram.errors import CorruptFileError
from engram.units import format_bytes

_BLOCK_BYTES = 2**18
_SPACES = re.compile(r"[ \t\r\n]*")
# Longest token whose error more text could resolve: -Infinity, or a \u escape.
_LONGEST_WORD = 16


def holds_json_lines(stream: ByteStream) -> bool:
    """Whether the first line that is not blank is a JSON object; the stream does not move."""
    data = line = b""
    is_read = False
    while not is_read and len(data) <= MAX_DOCUMENT_BYTES:
        # Twice as much each time, so that many blank lines take linear time.
        block = stream.read(max(_BLOCK_BYTES, len(data)))
        data += block
        line = data.lstrip(BLANK)
        is_read = not block or line[:1] not in (b"", b"{") or b"\n" in line
    stream.put_back(data)
    try:
        return line.startswith(b"{") and isinstance(json.loads(line.partition(b"\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


class JsonValues:
    """The values of a JSON file: the items of one array, or consecutive values.

    Args:
        source: The file.
        stream: Its bytes.
        block_bytes: Approximate bytes to read at a time.
        limit_bytes: The longest valid value.
    """

    def __init__(
        self, source: Source, stream: ByteStream, block_bytes: int, limit_bytes: int
    ) -> None:
        self._source, self._stream = source, stream
        self._block_bytes, self._limit_bytes = block_bytes, limit_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._at_end = "", 0, False
        self._number = 0
        # The reason that the rest after the text cannot be read.
        self._problem = ""

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Read the values.

        Yields:
            The 1-based number of a value, and the value.

        Raises:
            CorruptFileError: The file starts with neither an object nor an array, is not valid
                JSON, or a value is too long; the rest of the file cannot be read.
        """
        start = self._next_sign()
        if start not in ("", "{", "["):
            raise CorruptFileError(
                f"{self._source.name} must start with a JSON object or a list of objects, got "
                f"{start!r}.",
                "Rename it to end with .txt to read it as plain text.",
                file=self._source.name,
            )
        is_array = start == "["
        if is_array:
            self._at += 1
            if self._next_sign() == "]":
                self._at += 1
                start = ""
        while start:
            self._number += 1
            yield self._number, self._value()
            start = self._next_sign()
            if is_array:
                if start not in (",", "]"):
                    raise self._broken("',' or ']' expected after it")
                self._at += 1
                start = "" if start == "]" else start
        if is_array and self._next_sign():
            raise self._broken("the file continues after the end of the list")

    def _value(self) -> Any:
        self._next_sign()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_near_end = error.pos > len(self._text) - _LONGEST_WORD
                may_go_on = is_near_end or error.msg.startswith("Unterminated string")
                if self._at_end or not may_go_on:
                    raise self._broken(error.msg) from error
            except (ValueError, RecursionError) as error:
                raise self._broken(str(error)) from error
            else:
                # A number may continue in the next block.
                if end < len(self._text) or self._at_end:
                    self._at = end
                    return value
            if len(self._text) - self._at > self._limit_bytes:
                raise self._broken(f"it is longer than {format_bytes(self._limit_bytes)}")
            self._read_on()

    def _next_sign(self) -> str:
        """Skip spaces; return the next character without consuming it, empty at the end."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._at_end:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _read_on(self) -> None:
        """Read more text, twice as much each time, so that long values take linear time."""
        rest = self._text[self._at :]
        most = self._limit_bytes + self._block_bytes - len(rest)
        if self._problem:
            raise self._broken(self._problem)
        before = self._stream.offset - len(self._utf8.getstate()[0])
        fresh = self._stream.read(max(1, min(max(self._block_bytes, len(rest)), most)))
        try:
            self._text = rest + self._utf8.decode(fresh, final=not fresh)
        except UnicodeDecodeError as error:
            self._text = rest + error.object[: error.start].decode()
            self._problem = f"byte {before + error.start:,} is not valid UTF-8: {error.reason}"
        self._at, self._at_end = 0, not fresh

    def _broken(self, problem: str) -> CorruptFileError:
        """Return the error for the current value, or the first."""
        name, number = self._source.name, max(self._number, 1)
        return CorruptFileError(
            f"{name}: record {number:,} is not JSON: {problem}.",
            "Correct the file, or use the records before it with --on-error skip.",
            file=name,
            record=number,
        )

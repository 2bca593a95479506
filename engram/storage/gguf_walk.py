"""A bounded walk through the header of a GGUF file, wherever its bytes come from.

Nothing is allocated by a length that the header states before that length is compared with what the
file can hold.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engram.errors import CorruptFileError, MissingFileError

# Headers with the largest tokenizers take some tens of megabytes.
MAX_HEADER_BYTES = 100_000_000
MAX_NAME_BYTES = 65_535  # the format's own limit for keys
_LENGTH = struct.Struct("<Q")


class Source(Protocol):
    """Bytes of one file, here or elsewhere.

    Attributes:
        path: The file, as messages name it.
        size: Its size in bytes.
        window_bytes: Bytes that a walk reads at a time: at first, and at most.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def window_bytes(self) -> tuple[int, int]: ...  # noqa: D102

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset`` on; fewer where the file ends before."""
        ...

    def read_each(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read many short stretches, such as rows: an offset and a count for each."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine, open only while it is read.

    Attributes:
        path: The file.
        size: Its size in bytes when it was looked at.
    """

    path: Path
    size: int

    @property
    def window_bytes(self) -> tuple[int, int]:
        """See `Source`."""
        return 2**16, 2**20

    @classmethod
    def at(cls, path: Path) -> "LocalFile":
        """Look at a file.

        Raises:
            MissingFileError: It is not there, or not a file.
        """
        with _reading(path):
            # Opening a named pipe would wait for its writer.
            if path.exists() and not path.is_file():
                raise MissingFileError(f"{path} is not a file.", "Check the path.", path=str(path))
            return cls(path, path.stat().st_size)

    def read(self, offset: int, count: int) -> bytes:
        """See `Source`.

        Raises:
            MissingFileError: The file is no longer there or may not be read.
        """
        return self.read_each([(offset, count)])[0]

    def read_each(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Source`.

        Raises:
            MissingFileError: The file is no longer there or may not be read.
        """
        contents = []
        with _reading(self.path), self.path.open("rb", buffering=0) as file:
            for offset, count in places:
                content = b""
                if offset < self.size:  # else it may be more than a file can be asked for
                    file.seek(offset)
                    while len(content) < count and (more := file.read(count - len(content))):
                        content += more
                contents.append(content)
        return contents


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingFileError(
            f"{path} cannot be read: {error.strerror}.", "Check the path.", path=str(path)
        ) from None


def damaged(path: Path, what: str, at: int) -> CorruptFileError:
    """Return the error for a damaged file.

    Args:
        path: The file.
        what: The damage.
        at: Byte of the file at which it is.
    """
    return CorruptFileError(
        f"{path} is damaged: {what}, at byte {at:,}.",
        "Download or copy it again.",
        path=str(path),
        offset=at,
    )


class Walk:
    """A position in a header that only moves on, over a window of bytes.

    A window is at most as long as the source's first or as all before it together, so that reading
    ends soon after the header does.

    Args:
        source: The file.

    Attributes:
        source: The file.
        at: The position in it.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.at = source, 0
        self._window, self._start, self._read_bytes = b"", 0, 0

    def numbers(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        """Read numbers of fixed sizes.

        Args:
            form: Their layout.
            what: Their name in messages.

        Raises:
            CorruptFileError: The file ends before.
        """
        self._fill(form.size, what)
        values = form.unpack_from(self._window, self.at - self._start)
        self.at += form.size
        return values

    def name(self, what: str) -> str:
        """Read the text of a key or of a tensor's name.

        Raises:
            CorruptFileError: The file ends before, or the text is empty, too long or not UTF-8.
        """
        start = self.at
        (length,) = self.numbers(_LENGTH, f"the length of {what}")
        if not 0 < length <= MAX_NAME_BYTES:
            raise self.damaged(f"{what} has {length:,} bytes, not 1 to {MAX_NAME_BYTES:,}", start)
        try:
            return self.bytes(length, what).decode()
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8", start) from None

    def bytes(self, count: int, what: str) -> bytes:
        """Read some bytes.

        Raises:
            CorruptFileError: The file ends before.
        """
        self._fill(count, what)
        first = self.at - self._start
        self.at += count
        return self._window[first : first + count]

    def skip(self, count: int, what: str) -> None:
        """Move on without reading.

        Raises:
            CorruptFileError: The file ends before.
        """
        self.expect(count, what)
        self.at += count

    def skip_texts(self, count: int, what: str) -> None:
        """Move on over strings with their lengths.

        Args:
            count: Number of strings.
            what: Their name in messages.

        Raises:
            CorruptFileError: The file ends before.
        """
        self.expect(_LENGTH.size * count, what)
        length_at = _LENGTH.unpack_from
        while count:
            self._fill(_LENGTH.size, what)
            window, at = self._window, self.at - self._start
            try:
                while count:
                    at += 8 + length_at(window, at)[0]
                    count -= 1
            except (struct.error, OverflowError):  # the next length lies outside of the window
                pass
            self.skip(self._start + at - self.at, what)

    def expect(self, count: int, what: str) -> None:
        """Refuse what the file or a header cannot hold.

        Args:
            count: Bytes from here on.
            what: Their name in messages.

        Raises:
            CorruptFileError: There are fewer.
        """
        left = self.source.size - self.at
        if count > left:
            raise self.damaged(f"{what} needs {count:,} more bytes in a file that has {left:,}")
        if self.at + count > MAX_HEADER_BYTES:
            raise self.damaged(f"{what} ends after {MAX_HEADER_BYTES:,} bytes of header")

    def damaged(self, what: str, at: int | None = None) -> CorruptFileError:
        """Return the error for damage here, or at another byte."""
        return damaged(self.source.path, what, self.at if at is None else at)

    def _fill(self, count: int, what: str) -> None:
        """Have the next bytes in the window."""
        self.expect(count, what)
        if self.at + count <= self._start + len(self._window):
            return
        first, most = self.source.window_bytes
        ahead = min(max(first, self._read_bytes), most)
        wanted = min(max(count, ahead), self.source.size - self.at)
        self._window, self._start = self.source.read(self.at, wanted), self.at
        self._read_bytes += len(self._window)
        if len(self._window) < count:
            raise self.damaged(f"the file ends inside of {what}")

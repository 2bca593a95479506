"""Opens a source of text as a stream: stdin, gzip, zstd, byte-order marks, parts."""

import codecs
import gzip
import shlex
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, Any

from engram.corpus.text.sources import Source
from engram.errors import CorruptFileError, InputError, MissingPackageError

_UNPACK = {"gzip": "gzip -dc", "zstd": "zstd -dc"}
# Bytes of a file to check for binary data; git checks as many.
_HEAD_BYTES = 8000
# The first four bytes of UTF-32 may be those of UTF-16, too.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class ByteStream:
    """The decompressed bytes of an open source.

    Attributes:
        offset: Decompressed bytes read so far.
        begin: Offset of the text, after a byte-order mark.
    """

    def __init__(self, source: Source, file: IO[bytes], stored: IO[bytes]) -> None:
        self.offset = self.begin = 0
        self._source, self._file, self._stored = source, file, stored
        self._size = None if source.end is None else source.end - source.begin
        self._ahead = b""

    @property
    def stored_offset(self) -> int:
        """Bytes read so far as stored, for progress; decompressed bytes for a pipe."""
        is_plain = self._source.compression is None or self._source.size_bytes is None
        return self.offset if is_plain else self._stored.tell()

    def read(self, size_bytes: int) -> bytes:
        """Read the next bytes; fewer than requested only at the end.

        Raises:
            CorruptFileError: The compressed file is truncated or has another format.
            InputError: The file cannot be read.
        """
        if self._size is not None:
            size_bytes = min(size_bytes, self._size - self.offset)
        data, self._ahead = self._ahead[:size_bytes], self._ahead[size_bytes:]
        try:
            if len(data) < size_bytes:
                data += self._file.read(size_bytes - len(data))
        except (EOFError, OSError, zlib.error) as error:
            name, packed = self._source.name, self._source.compression
            where = f"after {self.offset:,} bytes of text: {error}"
            if packed is None:
                raise InputError(
                    f"{name} cannot be read, {where}", file=name, byte_offset=self.offset
                ) from error
            raise CorruptFileError(
                f"{name} is truncated or not a {packed} file, {where}",
                "Download or compress it again, or use the readable part with --on-error skip.",
                file=name,
                byte_offset=self.offset,
            ) from error
        self.offset += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Push back bytes that were just read."""
        self._ahead = data + self._ahead
        self.offset -= len(data)

    def skip_mark(self) -> None:
        """Skip the byte-order mark of UTF-8 at the start of a file.

        Raises:
            CorruptFileError: The mark is for another encoding.
            InputError: The file is binary.
        """
        head = self.read(_HEAD_BYTES)
        for mark, encoding in _OTHER_ENCODINGS.items():
            if head.startswith(mark):
                raise _wrong_encoding(self._source, mark, encoding)
        if b"\0" in head:
            raise binary_file(self._source, head.index(0), 0)
        self.put_back(head.removeprefix(codecs.BOM_UTF8))
        self.begin = self.offset


@contextmanager
def open_source(source: Source) -> Iterator[ByteStream]:
    """Open a source for reading its decompressed bytes.

    Yields:
        The stream, after the byte-order mark that a file may start with.

    Raises:
        InputError: The file cannot be opened, or is binary.
        CorruptFileError: The file does not have the compression of its name, or is not UTF-8 by
            its first bytes.
        MissingPackageError: Reading .zst needs pyarrow.
    """
    opened: AbstractContextManager[IO[bytes]] = nullcontext(sys.stdin.buffer)
    try:
        if source.path is not None:
            opened = source.path.open("rb")
    except OSError as error:
        raise InputError(
            f"{source.name} cannot be opened: {error.strerror}.", file=source.name
        ) from error
    with opened as stored:
        if source.begin:
            stored.seek(source.begin)
        file: Any = stored
        if source.compression == "gzip":
            file = gzip.GzipFile(fileobj=stored)
        elif source.compression == "zstd":
            try:
                import pyarrow
            except ImportError:
                raise MissingPackageError("pyarrow", "parquet", f"Reading {source.name}") from None
            file = pyarrow.CompressedInputStream(pyarrow.PythonFile(stored), "zstd")
        stream = ByteStream(source, file, stored)
        if not source.begin:
            stream.skip_mark()
        yield stream


def _wrong_encoding(source: Source, mark: bytes, encoding: str) -> CorruptFileError:
    name = shlex.quote("corpus.txt" if source.path is None else source.name)
    suffix = "txt" if source.format == "text" else source.format
    command = f"iconv -f {encoding} -t UTF-8"
    if source.compression is None:
        command = f"{command} {name}"
    else:
        command = f"{_UNPACK[source.compression]} {name} | {command}"
    return CorruptFileError(
        f"{source.name} is in {encoding}, by its first bytes ({mark.hex(' ')}); texts must be "
        "in UTF-8.",
        f"Convert it first: {command} > utf8.{suffix}",
        file=source.name,
        encoding=encoding,
    )


def binary_file(source: Source, offset: int, byte: int) -> InputError:
    """Return the error for a byte that is not text."""
    return InputError(
        f"{source.name}: byte {offset:,} (0x{byte:02x}) is not text: this looks like a binary "
        "file.",
        "Give text in UTF-8 (unpack an archive first), or leave such documents out with --on-error "
        "skip.",
        file=source.name,
        byte_offset=offset,
    )

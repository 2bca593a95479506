"""Which files hold the text, and their bytes as a stream: folders, stdin, gzip, zstd, parts."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

from engram.errors import CorruptFileError, InputError, MissingFileError, MissingPackageError
from engram.gguf import refuse_gguf

STDIN = "-"
FOLDER_SUFFIXES = (".txt", ".jsonl", ".parquet")
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_BLOCK_BYTES = 2**20
_TRUNCATED = "Fetch or compress it again, or take what can be read with --on-error skip."


@dataclass(frozen=True)
class Source:
    """One file of text, or a part of one.

    Attributes:
        name: What messages call it.
        path: Where it is; None for standard input.
        records: Whether it holds one JSON object a line (.jsonl) instead of plain text.
        compression: How its bytes are packed; None when they are not.
        size_bytes: Its size as stored, or that of the part; None for standard input and pipes.
        begin: First byte of the part, in .parquet its first row group.
        end: End of the part, in the same unit; None for the rest of the file.
    """

    name: str
    path: Path | None
    records: bool
    compression: Literal["gzip", "zstd"] | None = None
    size_bytes: int | None = None
    begin: int = 0
    end: int | None = None

    @property
    def is_parquet(self) -> bool:
        """Whether it is a table with a column of texts."""
        return self.path is not None and self.path.suffix.lower() == ".parquet"

    def file_line(self, line: int) -> int:
        """Turn a line of the part into one of the file; rows of a .parquet count from its start."""
        if self.is_parquet or self.path is None:
            return line
        return line + _lines_before(self.path, self.begin)


class ByteStream:
    """The unpacked bytes of an open source.

    Attributes:
        offset: Unpacked bytes read so far.
    """

    def __init__(self, source: Source, file: IO[bytes], stored: IO[bytes]) -> None:
        self.offset = 0
        self._source, self._file, self._stored = source, file, stored
        self._left = None if source.end is None else source.end - source.begin

    @property
    def stored_offset(self) -> int:
        """Bytes read so far as stored, for progress; a pipe counts its unpacked ones."""
        is_plain = self._source.compression is None or self._source.size_bytes is None
        return self.offset if is_plain else self._stored.tell()

    def read(self, size_bytes: int) -> bytes:
        """Read the next bytes; fewer than asked for only at the end.

        Raises:
            CorruptFileError: The packed file is truncated or not what its name says.
            InputError: The file cannot be read.
        """
        if self._left is not None:
            size_bytes = min(size_bytes, self._left)
        try:
            data = self._file.read(size_bytes)
        except (EOFError, OSError, zlib.error) as error:
            name, packed = self._source.name, self._source.compression
            kind = InputError if packed is None else CorruptFileError
            what = "cannot be read" if packed is None else f"is truncated or not a {packed} file"
            raise kind(
                f"{name} {what}, after {self.offset:,} bytes of text: {error}",
                "" if packed is None else _TRUNCATED,
                file=name,
                byte_offset=self.offset,
            ) from error
        self.offset += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data


def find_sources(where: str | Path, stdin_records: bool = False) -> tuple[list[Source], int]:
    """List the files of text that a path stands for.

    A folder stands for its .txt, .jsonl (also .gz and .zst of them) and .parquet files at any
    depth, sorted by path; hidden files and folders are left out. A file that is named itself is
    text whatever its name, unless that ends with .jsonl or .parquet.

    Args:
        where: File, folder, or ``-`` for standard input.
        stdin_records: Whether standard input holds JSON lines instead of text.

    Returns:
        The sources, and the number of files of a folder that are not text.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder holds no text.
    """
    if str(where) == STDIN:
        return [Source("<stdin>", None, stdin_records)], 0
    path = Path(where)
    if not path.exists():
        raise MissingFileError(
            f"There is no file or folder {path}.", "Give a text file, a folder or - for stdin.",
            file=str(path),
        )  # fmt: skip
    if not path.is_dir():
        refuse_gguf(path)
        return [_source(path)], 0
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
    ]
    sources = [_source(file) for file in files if _plain_suffix(file) in FOLDER_SUFFIXES]
    if not sources:
        raise InputError(
            f"The folder {path} holds no text: {len(files)} files, none of them "
            f"{', '.join(FOLDER_SUFFIXES)} (.gz and .zst of the first two count too).",
            "Name a single file to read it whatever its name.",
            folder=str(path),
            files=len(files),
        )
    return sources, len(files) - len(sources)


@contextmanager
def open_source(source: Source) -> Iterator[ByteStream]:
    """Open a source for reading its unpacked bytes.

    Yields:
        The stream.

    Raises:
        InputError: The file cannot be opened.
        MissingPackageError: Reading .zst needs pyarrow.
    """
    if source.path is None:
        yield ByteStream(source, sys.stdin.buffer, sys.stdin.buffer)
        return
    try:
        stored = source.path.open("rb")
    except OSError as error:
        raise InputError(
            f"{source.name} cannot be opened: {error.strerror}.", file=source.name
        ) from error
    with stored:
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
        yield ByteStream(source, file, stored)


def _plain_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _source(path: Path) -> Source:
    return Source(
        name=str(path),
        path=path,
        records=_plain_suffix(path) == ".jsonl",
        compression=_COMPRESSIONS.get(path.suffix.lower()),
        size_bytes=path.stat().st_size if path.is_file() else None,
    )


@lru_cache(maxsize=8)
def _lines_before(path: Path, begin: int) -> int:
    lines = 0
    with path.open("rb") as file:
        while begin and (block := file.read(min(begin, _BLOCK_BYTES))):
            lines += block.count(b"\n")
            begin -= len(block)
    return lines

"""Errors for documents that cannot be read, with their position and the next step."""

from __future__ import annotations

from collections.abc import Sequence

from engram.corpus.text.documents import Split
from engram.corpus.text.sources import Source
from engram.errors import CorruptFileError, InputError
from engram.units import format_bytes

_SPLITS: dict[Split, str] = {
    "file": "Cut the text smaller with --split paragraph or --split line.",
    "paragraph": "Cut the text smaller with --split line.",
}
_SKIP = "or leave such documents out with --on-error skip."


def no_text(sources: Sequence[Source], skipped: Sequence[InputError]) -> InputError:
    """Return the error for a text without documents, or with all of them skipped."""
    names = ", ".join(source.name for source in sources[:3])
    first = f" Skipped: {skipped[0].message}" if skipped else ""
    hint = skipped[0].hint if skipped else ""
    return InputError(f"There is no text in {names}.{first}", hint, files=len(sources))


def binary_file(source: Source, offset: int, byte: int) -> InputError:
    """Return the error for a byte that is not text."""
    return InputError(
        f"{source.name}: byte {offset:,} (0x{byte:02x}) is not text: this looks like a binary "
        "file.",
        f"Give text in UTF-8 (unpack an archive first), {_SKIP}",
        file=source.name,
        byte_offset=offset,
    )


def not_utf8(
    source: Source, line: int, data: bytes, offset: int, error: UnicodeDecodeError
) -> InputError:
    """Return the error for a document that is not UTF-8, from its line and byte `offset`."""
    line = source.file_line(line) + data.count(b"\n", 0, error.start)
    at = offset + error.start
    looks = " This looks like a binary file." if b"\0" in data else ""
    return InputError(
        f"{source.name}:{line}: byte {at:,} (0x{data[error.start]:02x}) is not valid UTF-8: "
        f"{error.reason}.{looks}",
        "Convert the file to UTF-8, or leave such documents out with --on-error skip.",
        file=source.name,
        line=line,
        byte_offset=at,
    )


def wrong_record(source: Source, line: int, problem: str) -> InputError:
    """Return the error for a record that starts at a line, or for a row of a .parquet."""
    line = source.file_line(line)
    unit, hint = "line", f"Correct it, give the key or column with --text-column, {_SKIP}"
    if source.format == "parquet":
        unit, hint = "row", "Leave such rows out with --on-error skip."
    return InputError(f"{source.name}:{line}: {problem}", hint, file=source.name, **{unit: line})


def broken_json(source: Source, number: int, problem: str) -> CorruptFileError:
    """Return the error for a .json that is not valid from a record on, counted from 1."""
    return CorruptFileError(
        f"{source.name}: record {number:,} is not JSON: {problem}.",
        "Correct the file, or use the records before it with --on-error skip.",
        file=source.name,
        record=number,
    )


def no_column(source: Source, column: str, columns: Sequence[str]) -> InputError:
    """Return the error for a missing column of a table."""
    hint = "Give the column with --text-column, or leave such files out with --on-error skip."
    if len(columns) == 1 and (other := [mark for mark in "\t;|" if mark in columns[0]]):
        hint = (
            f"Its columns are separated by {other[0]!r}: only .csv with commas and .tsv with tabs "
            "can be read. Rename or convert it."
        )
    return InputError(
        f"{source.name} has no column {column!r}; its columns are "
        f"{', '.join(map(repr, columns[:8]))}.",
        hint,
        file=source.name,
        columns=list(columns),
    )


def too_long(
    source: Source, line: int, limit_bytes: int, split: Split | None, has_lines: bool
) -> InputError:
    """Return the error for a document that is too long.

    Args:
        source: Its file.
        line: The line at which it starts.
        limit_bytes: The longest valid document.
        split: The split in use; None for a record or a row.
        has_lines: Whether it has more than one line, so that another split can cut it.
    """
    line = source.file_line(line)
    hint = f"Cut the text into smaller files, {_SKIP}"
    if split is not None:
        hint = f"It is a single line: break it first, for example with fold -s -w 100000, {_SKIP}"
        if has_lines and split in _SPLITS:
            hint = _SPLITS[split]
    return InputError(
        f"{source.name}:{line}: the document that starts here is longer than "
        f"{format_bytes(limit_bytes)}.",
        hint,
        file=source.name,
        line=line,
        limit_bytes=limit_bytes,
    )

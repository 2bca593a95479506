"""The texts of JSON records and of rows, or the errors of those that have none."""

import json
from collections.abc import Sequence
from typing import Any

from engram.corpus.text.documents import Split
from engram.corpus.text.sources import Source
from engram.errors import InputError
from engram.units import format_bytes

# The line, row or number of a record; its text, or the error for having none; and the bytes of the
# file read so far, as stored.
Record = tuple[int, str | InputError, int]

_SPLITS: dict[Split, str] = {
    "file": "Cut the text smaller with --split paragraph or --split line.",
    "paragraph": "Cut the text smaller with --split line.",
}
_COLUMN = "--text-column (in Python, text_key)"
_SKIP = "or leave such documents out with --on-error skip."
# Types by their names in JSON.
_KINDS = {str: "a string", list: "a list", dict: "an object", type(None): "null"} | {
    bool: "true or false",
    int: "a number",
    float: "a number",
}


def text_of_json(source: Source, line: int, data: str, key: str) -> str | InputError:
    """Parse a JSON record; return its text, or its error."""
    try:
        record: Any = json.loads(data.rstrip("\r"))
    except json.JSONDecodeError as error:
        # Its own message has a line within the record, not within the file.
        return wrong_record(source, line, f"not JSON: {error.msg} at column {error.colno}.")
    except (ValueError, RecursionError) as error:
        return wrong_record(source, line, f"not JSON: {error}.")
    return text_of_record(source, line, record, key)


def text_of_record(source: Source, line: int, record: Any, key: str) -> str | InputError:
    """Return the text of a parsed record, or its error."""
    if not isinstance(record, dict):
        return wrong_record(source, line, f"{_kind(record)}, not an object.")
    if key not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        return wrong_record(source, line, f"the record has no key {key!r}; its keys are {keys}.")
    return text_of(source, line, record[key], key)


def text_of(source: Source, line: int, text: Any, key: str) -> str | InputError:
    """Return the text of a value, or its error."""
    if not isinstance(text, str):
        return wrong_record(source, line, f"{key!r} is {_kind(text)}, not a string.")
    if not text:
        return wrong_record(source, line, f"{key!r} is an empty string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # A byte that was read with surrogateescape is one of these.
        is_byte = "\udc80" <= text[error.start] <= "\udcff"
        what = "is not valid UTF-8" if is_byte else "holds half of a surrogate pair"
        return wrong_record(source, line, f"{key!r} {what} at character {error.start}.")
    return text


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def wrong_record(source: Source, line: int, problem: str) -> InputError:
    """Return the error for a record that starts at a line, or for a row of a table."""
    line = source.file_line(line)
    unit, hint = "line", f"Correct it, give the key or column with {_COLUMN}, {_SKIP}"
    if source.has_rows:
        unit, hint = "row", "Leave such rows out with --on-error skip."
    return InputError(f"{source.name}:{line}: {problem}", hint, file=source.name, **{unit: line})


def no_column(source: Source, column: str, columns: Sequence[str]) -> InputError:
    """Return the error for a missing column of a table."""
    hint = f"Give the column with {_COLUMN}, or leave such files out with --on-error skip."
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

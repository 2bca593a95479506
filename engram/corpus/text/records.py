"""The texts of JSON records and of rows, or the errors of those that have none."""

from __future__ import annotations

import json
from typing import Any

from engram.corpus.text.reading_errors import wrong_record
from engram.corpus.text.sources import Source
from engram.errors import InputError

# The line, row or number of a record; its text, or the error for having none; and the bytes of the
# file read so far, as stored.
Record = tuple[int, str | InputError, int]

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
        problem = f"the record has no key {key!r}; its keys are {keys}."
        return wrong_record(source, line, problem)
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

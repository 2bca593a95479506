"""Returns the text of a JSON record or a row, or its problem."""

from __future__ import annotations

import json
from typing import Any

# Types by their names in JSON.
_KINDS = {str: "a string", list: "a list", dict: "an object", type(None): "null"} | {
    bool: "true or false",
    int: "a number",
    float: "a number",
}


def record_text(line: str, key: str) -> tuple[str | None, str]:
    """Parse a JSON record; return its text, or its problem."""
    try:
        record: Any = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        # Its own message has a line within the record, not within the file.
        return None, f"not JSON: {error.msg} at column {error.colno}."
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}."
    return text_of_record(record, key)


def text_of_record(record: Any, key: str) -> tuple[str | None, str]:
    """Return the text of a parsed record, or its problem."""
    if not isinstance(record, dict):
        return None, f"{_kind(record)}, not an object."
    if key not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        return None, f"the record has no key {key!r}; its keys are {keys}."
    return text_of(record[key], key)


def text_of(text: Any, key: str) -> tuple[str | None, str]:
    """Return the text of a value, or its problem."""
    if not isinstance(text, str):
        return None, f"{key!r} is {_kind(text)}, not a string."
    if not text:
        return None, f"{key!r} is an empty string."
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff":  # a byte that was read with surrogateescape
            return None, f"{key!r} is not valid UTF-8 at character {error.start}."
        return None, f"{key!r} holds half of a surrogate pair at character {error.start}."
    return text, ""


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")

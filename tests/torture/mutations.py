"""Changes to the bytes of a file: blind ones, and ones that know JSON."""

from __future__ import annotations

import json
from random import Random
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "0", "../up", "/etc/passwd", "a\0b", "a/b", "\ud800"),
    *("\x1b[2J\x1b]0;title\x07", "\u202egnp", "\x9b31m", "line\nline\r", "x" * 5000, "{}", "null"),
    *([], {}, [[]], [None], [1, "a"], {"": None}, {"a": {"b": []}}, [0] * 3000),
)
_BYTES = (b"\0", b"\xff", b"\x1b[31m", b"\n", b"{", b"\xed\xa0\x80", b"9" * 400, b"\xef\xbb\xbf")


def mutated(content: bytes, random: Random) -> bytes:
    """Return the bytes of a file, changed in one to three ways.

    Args:
        content: The bytes.
        random: Decides how.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        span = _json_span(content)
        if span is not None and random.random() < 0.75:
            begin, end, prefixed = span
            text = _changed_json(json.loads(content[begin:end]), random)
            length = len(text).to_bytes(8, "little") if prefixed else b""
            content = (length or content[:begin]) + text + content[end:]
        else:
            content = _changed_bytes(content, random)
    return content


def _json_span(content: bytes) -> tuple[int, int, bool] | None:
    """Begin and end of the JSON in a file, and whether its length stands before it."""
    length = int.from_bytes(content[:8], "little")
    for begin, end, prefixed in ((0, len(content), False), (8, 8 + length, True)):
        try:
            json.loads(content[begin:end].decode())
            if end <= len(content):
                return begin, end, prefixed
        except (ValueError, RecursionError):
            continue
    return None


def _changed_json(values: Any, random: Random) -> bytes:
    """Change one value or key of a JSON document."""
    places = list(_places(values))
    if random.random() < 0.06 or not places:
        depth = random.choice((90, 500, 5000, 100_000))
        return random.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    holder, key = random.choice(places)
    kind = random.random()
    if kind < 0.55:
        holder[key] = random.choice(_VALUES)
    elif kind < 0.7:
        del holder[key]
    elif kind < 0.8:
        holder[key] = {"inner": holder[key]} if random.random() < 0.5 else [holder[key]]
    elif kind < 0.9 and isinstance(holder, dict):
        name = random.choice([value for value in _VALUES if isinstance(value, str)])
        holder[name] = holder.pop(key)
    elif type(holder[key]) is int:
        holder[key] += random.choice((-1, 1, 7, -(10**6), 10**9))
    else:
        other, name = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    text = json.dumps(values)
    if random.random() < 0.05:  # too many digits for a number
        text = text.replace("1", "1" + "0" * 5000, 1)
    return text.encode()


def _places(values: Any) -> Any:
    if isinstance(values, (dict, list)):
        keys = list(values) if isinstance(values, dict) else range(len(values))
        for key in keys:
            yield values, key
            yield from _places(values[key])


def _changed_bytes(content: bytes, random: Random) -> bytes:
    at, kind = random.randrange(len(content) + 1), random.randrange(7)
    # Most of a file of weights is no structure; its beginning and its end are.
    at = min(at, random.choice((16, 300, 10**9)))
    if kind == 0 and content:
        at = min(at, len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[at + random.randrange(1, 40) :]
    if kind == 3:
        part = content[at : at + random.randrange(1, 40)]
        return content[:at] + part * random.choice((2, 3, 500)) + content[at + len(part) :]
    if kind == 4:
        return content[:at] + random.choice(_BYTES) + content[at:]
    if kind == 5:
        return content[:at] + random.randbytes(random.randrange(1, 30)) + content[at + 8 :]
    return random.choice((b"", content[::-1], b"\0" * len(content), content + content))

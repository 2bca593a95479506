"""Reads JSON that anyone may have written: bounded in size and depth, and checked against a shape.

A shape is written as the value it describes: a dict names the keys that an object must have (others
may stand beside them), a list of one shape is a list of such values, and a `Kind` is one value, or
adds a rule to a shape.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, EngramError, MissingFileError
from engram.storage.file_names import is_inside
from engram.units import listed

MAX_JSON_BYTES = 100_000_000  # the limit of safetensors headers, the largest JSON that is read
MAX_DEPTH = 100
_LIMIT = 2**63
_NAMED = 10  # problems that a message names
# The next step where a folder with a memory is damaged.
COPY_AGAIN = "Copy the folder again from where it was made, or attach again."
_HINT = "Download or copy it again."


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        words: Its name in messages.
        holds: Whether a value is of this kind; asked of values of the shape alone.
        shape: A shape that its values have.
    """

    words: str
    holds: Callable[[Any], bool]
    shape: Any = None


@dataclass(frozen=True)
class OrNull:
    """A value that may be null, and must be there.

    Attributes:
        shape: Shape of the value that is not null.
    """

    shape: Any


class Maybe(OrNull):
    """A value that may be null or missing."""


@dataclass(frozen=True)
class Each:
    """An object with any keys.

    Attributes:
        shape: Shape of each of its values.
        key: Kind of its keys; None for any.
    """

    shape: Any
    key: Kind | None = None


OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
TEXT = Kind("a text", lambda value: isinstance(value, str))
COUNT = Kind(
    "a whole number from 0 to 2^63 - 1", lambda value: type(value) is int and 0 <= value < _LIMIT
)
NUMBER = Kind(
    "a finite number",
    lambda value: type(value) in (int, float) and abs(value) < _LIMIT and math.isfinite(value),
)
FILE_NAME = Kind(
    "the name of a file of its folder", lambda value: is_inside(value) and "/" not in value
)
SHA256 = Kind(
    "a sha256 in hexadecimal",
    lambda value: len(value) == 64 and not set(value) - set("0123456789abcdef"),
    TEXT,
)


def one_of(*texts: str) -> Kind:
    """Return the kind of value that is one of some texts."""
    return Kind(" or ".join(map(repr, texts)), lambda value: value in texts)


def read_json(
    path: Path, shape: Any = OBJECT, *, hint: str = _HINT, file_names: bool = False
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        shape: Shape of its content; the rest of the file may hold anything.
        hint: Next step after an error.
        file_names: Texts may hold the half surrogates by which Python writes names of files that
            are not UTF-8.

    Returns:
        The content, of that shape.

    Raises:
        MissingFileError: There is no such file.
        CorruptFileError: It is not JSON in UTF-8, too large, nested too deep, holds half of a
            surrogate pair, or is of another shape.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError.at(path, path=str(path)) from None
    except IsADirectoryError:
        raise CorruptFileError(f"{path} is a folder, not a file.", hint, path=str(path)) from None
    return parse_json(content, str(path), shape, hint=hint, file_names=file_names)


def find_json(
    path: Path, shape: Any = OBJECT, *, file_names: bool = False
) -> dict[str, Any] | None:
    """Read a JSON file; None when it is not there, cannot be read, or is of another shape.

    Args:
        path: The file.
        shape: See `read_json`.
        file_names: See `read_json`.
    """
    try:
        return read_json(path, shape, file_names=file_names)
    except (OSError, EngramError):
        return None


def parse_json(
    content: bytes,
    where: str,
    shape: Any = OBJECT,
    *,
    hint: str = _HINT,
    file_names: bool = False,
) -> dict[str, Any]:
    """Read a JSON object that is in memory.

    Args:
        content: The bytes.
        where: Name of the file that they are from.
        shape: See `read_json`.
        hint: Next step after an error.
        file_names: See `read_json`.

    Returns:
        The content, of that shape.

    Raises:
        CorruptFileError: See `read_json`.
    """
    if len(content) > MAX_JSON_BYTES:
        raise _corrupt(where, f"is larger than {MAX_JSON_BYTES:,} bytes", hint)
    try:
        text = content.decode("utf-8-sig")
        values: dict[str, Any] = json.loads(text)
        if _depth(values) > MAX_DEPTH:
            raise RecursionError
        if "\\u" in text:
            written = json.dumps(values, ensure_ascii=False)
            written.encode(errors="surrogateescape" if file_names else "strict")
    except RecursionError:
        raise _corrupt(where, f"is nested more than {MAX_DEPTH} deep", hint) from None
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is 0x{content[error.start]:02x}, which is not UTF-8"
        raise _corrupt(where, f"is not JSON: {what}", hint) from None
    except UnicodeEncodeError:
        what = "holds half of a surrogate pair, which is not text"
        raise _corrupt(where, what, hint) from None
    except ValueError as error:
        raise _corrupt(where, f"is not JSON: {error}", hint) from None
    check_shape(values, shape, where, hint=hint)
    return values


def check_shape(values: object, shape: Any, where: str, *, hint: str = _HINT) -> None:
    """Check that a value is of a shape.

    Args:
        values: The value.
        shape: See the module.
        where: Name of the file that it is from.
        hint: Next step after an error.

    Raises:
        CorruptFileError: It is of another shape; `problems` in the error's details names every
            value that is wrong, the message the first ones.
    """
    if faults := list(_faults(values, shape, "")):
        what = f"is damaged: {listed(faults, _NAMED, '; ')}"
        raise _corrupt(where, what, hint, problems=faults)


def _faults(value: object, shape: Any, name: str) -> Iterator[str]:
    """Yield everything in which a value differs from a shape, by its path."""
    match shape:
        case OrNull():
            if value is not None:
                yield from _faults(value, shape.shape, name)
        case Kind():
            faults = [] if shape.shape is None else list(_faults(value, shape.shape, name))
            yield from faults
            if not faults and not shape.holds(value):
                yield f"{name or 'its content'} is {_brief(value)}, not {shape.words}"
        case [inner] if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _faults(item, inner, f"{name}[{index}]")
        case Each() if isinstance(value, dict):
            for key, item in value.items():
                if shape.key is not None and not shape.key.holds(key):
                    yield f"{name or 'it'} has the key {_brief(key)}, not {shape.key.words}"
                yield from _faults(item, shape.shape, f"{name}[{_brief(key)}]")
        case dict() if isinstance(value, dict):
            for key, inner in shape.items():
                inside = f"{name}.{key}" if name else key
                if key not in value and not isinstance(inner, Maybe):
                    yield f"{inside} is missing"
                else:
                    yield from _faults(value.get(key), inner, inside)
        case _:
            yield from _faults(value, LIST if isinstance(shape, list) else OBJECT, name)


def _depth(values: object) -> int:
    """Levels of lists and objects, counted without recursion."""
    level, depth = [values], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            item
            for items in level
            for item in (items.values() if isinstance(items, dict) else items)
        ]
    return depth


def _brief(value: object) -> str:
    if isinstance(value, (dict, list)) and len(value) > 8:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    if type(value) is int and abs(value) >= 10**30:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.200}"


def _corrupt(where: str, what: str, hint: str, **details: Any) -> CorruptFileError:
    return CorruptFileError(f"{where} {what}.", hint, path=where, **details)

"""Metadata values of GGUF files: their types as found, their contents read when asked for."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engram.errors import CorruptFileError, InputError
from engram.storage.gguf_walk import Source, Walk, damaged

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# By number in files: name, and form of one number; strings and arrays have none.
_KINDS = (
    ("uint8", "<B"),
    ("int8", "<b"),
    ("uint16", "<H"),
    ("int16", "<h"),
    ("uint32", "<I"),
    ("int32", "<i"),
    ("float32", "<f"),
    ("bool", "<?"),
    ("string", None),
    ("array", None),
    ("uint64", "<Q"),
    ("int64", "<q"),
    ("float64", "<d"),
)
KIND_NUMBERS = {name: number for number, (name, _) in enumerate(_KINDS)}
ARRAY, STRING = "array", "string"
_FORMS = {name: struct.Struct(form) for name, form in _KINDS if form is not None}
_KIND, _ARRAY, _LENGTH = struct.Struct("<I"), struct.Struct("<IQ"), struct.Struct("<Q")
_HELD_BYTES = 2**16  # contents that are kept from the walk on
_MAX_DEPTH = 8
_MAX_NESTED = 2**16  # arrays inside of arrays
INTEGERS = tuple(name for name in _FORMS if "int" in name)


@dataclass(frozen=True, slots=True)
class GgufValue:
    """One metadata value of a GGUF file.

    Attributes:
        key: Its key.
        kind: Type of the value, or of an array's elements, as the file has it: uint8, int8, uint16,
            int16, uint32, int32, uint64, int64, float32, float64, bool or string; array for an
            array of arrays, which ggml refuses and whose contents are not read here.
        is_array: Whether it is an array.
        count: Number of elements; 1 for a single value.
        start: First byte of its contents, counted from the start of the file.
        stop: Byte after the last one.
    """

    key: str
    kind: str
    is_array: bool
    count: int
    start: int
    stop: int
    _source: Source = field(repr=False)
    _held: bytes | None = field(repr=False)

    def scalar(self) -> int | float | bool | str:
        """Return a single value.

        Raises:
            InputError: It is an array.
            CorruptFileError: It is a string that is not UTF-8, or the file has become shorter.
        """
        if self.is_array:
            raise self._asked("a single value")
        if self.kind == "string":
            return self._text(self._contents())
        (value,) = _FORMS[self.kind].unpack(self._contents())
        return value  # type: ignore[no-any-return]

    def numbers(self) -> npt.NDArray[np.generic]:
        """Return an array of numbers.

        Returns:
            [count], of the type that the file has.

        Raises:
            InputError: It is a single value, or its elements are not numbers.
            CorruptFileError: The file has become shorter.
        """
        import numpy as np

        if not self.is_array or self.kind not in _FORMS:
            raise self._asked("an array of numbers")
        contents = self._contents()
        # A damaged bool may be any byte.
        stored = "u1" if self.kind == "bool" else np.dtype(self.kind).newbyteorder("<")
        values: npt.NDArray[np.generic] = np.frombuffer(contents, stored)
        return values.astype(bool) if self.kind == "bool" else values

    def texts(self) -> list[str]:
        """Return an array of strings.

        Raises:
            InputError: It is something else.
            CorruptFileError: One of them is not UTF-8, or the file has become shorter.
        """
        if not self.is_array or self.kind != "string":
            raise self._asked("an array of strings")
        contents, texts, at = self._contents(), [], 0
        for _ in range(self.count):
            first = at + _LENGTH.size
            at = first + _LENGTH.unpack_from(contents, at)[0]
            texts.append(self._text(contents[first:at], self.start + first))
        return texts

    def packed(self) -> bytes:
        """Return type and contents as the file has them, for another file.

        Raises:
            CorruptFileError: The file has become shorter.
        """
        start = _KIND.pack(KIND_NUMBERS[ARRAY if self.is_array else self.kind])
        if self.is_array:
            start += _ARRAY.pack(KIND_NUMBERS[self.kind], self.count)
        elif self.kind == STRING:
            start += _LENGTH.pack(self.stop - self.start)
        return start + self._contents()

    def is_utf8(self) -> bool:
        """Whether the text can be read; only single strings up to 64 KiB are looked at."""
        if self.kind == "string" and not self.is_array and self._held is not None:
            try:
                self._text(self._held)
            except CorruptFileError:
                return False
        return True

    def described(self) -> str:
        """Say the type, as in ``uint32[48]``."""
        return f"{self.kind}[{self.count}]" if self.is_array else self.kind

    def _contents(self) -> bytes:
        if self._held is not None:
            return self._held
        contents = self._source.read(self.start, self.stop - self.start)
        if len(contents) < self.stop - self.start:
            raise damaged(self._source.path, f"the file ends inside of {self.key}", self.start)
        return contents

    def _text(self, stored: bytes, at: int | None = None) -> str:
        try:
            return stored.decode()
        except UnicodeDecodeError:
            raise damaged(
                self._source.path,
                f"{self.key} has a string that is not UTF-8",
                self.start if at is None else at,
            ) from None

    def _asked(self, wanted: str) -> InputError:
        return InputError(
            f"{self.key} in {self._source.path} must be {wanted}, got {self.described()}.",
            "Convert the file again with that type.",
            key=self.key,
            kind=self.kind,
            count=self.count if self.is_array else None,
        )


def read_value(walk: Walk, key: str) -> GgufValue:
    """Read the type of a value and move on over its contents.

    Args:
        walk: Stands at its type.
        key: Its key.

    Raises:
        CorruptFileError: The type is unknown, or the file ends before the contents do.
    """
    what = f"the value of {key}"
    (number,) = walk.numbers(_KIND, what)
    kind, count, is_array = _kind(walk, number, what), 1, False
    if kind == "array":
        is_array = True
        number, count = walk.numbers(_ARRAY, what)
        kind = _kind(walk, number, what)
    elif kind == "string":
        (length,) = walk.numbers(_LENGTH, what)
    start, held = walk.at, None
    if kind in _FORMS:
        stop = start + count * _FORMS[kind].size
    elif kind == "string" and not is_array:
        stop = start + length
    else:
        _skip_elements(walk, kind, count, what)
        stop = walk.at
    walk.expect(stop - walk.at, what)
    if stop - start <= _HELD_BYTES and walk.at == start:
        held = walk.bytes(stop - start, what)
    else:
        walk.skip(stop - walk.at, what)
    return GgufValue(key, kind, is_array, count, start, stop, walk.source, held)


def _kind(walk: Walk, number: int, what: str) -> str:
    if number >= len(_KINDS):
        raise walk.damaged(f"{what} is of the unknown type {number}")
    return _KINDS[number][0]


def _skip_elements(walk: Walk, kind: str, count: int, what: str) -> None:
    """Move on over strings, or over arrays inside of an array."""
    open_arrays = [(kind, count)]
    nested = 0
    while open_arrays:
        kind, count = open_arrays.pop()
        if kind == "string":
            walk.skip_texts(count, what)
        elif kind in _FORMS:
            walk.skip(count * _FORMS[kind].size, what)
        elif count:
            nested += 1
            if nested > _MAX_NESTED or len(open_arrays) >= _MAX_DEPTH:
                limits = f"{_MAX_NESTED:,} arrays in it, {_MAX_DEPTH} deep"
                raise walk.damaged(f"{what} exceeds the limit of {limits}")
            inner, inner_count = walk.numbers(_ARRAY, what)
            open_arrays += [(kind, count - 1), (_kind(walk, inner, what), inner_count)]

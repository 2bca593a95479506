"""Headers of GGUF files that are to be written: metadata, and places of tensors.

The format is that of ggml's docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from engram.errors import InputError
from engram.storage.chunks import Chunks
from engram.storage.ggml_types import TYPES
from engram.storage.gguf_values import ARRAY, KIND_NUMBERS, STRING, GgufValue

ALIGNMENT = "general.alignment"
_VERSION = 3
_START, _TYPE = struct.Struct("<4sIQQ"), struct.Struct("<I")
_ARRAY, _LENGTH, _PLACE = struct.Struct("<IQ"), struct.Struct("<Q"), struct.Struct("<IQ")


@dataclass(frozen=True)
class NewValue:
    """One metadata value that is to be written.

    Attributes:
        kind: Type of the value, or of an array's elements: a number's, bool or string.
        value: A single value, or a list of them.
    """

    kind: str
    value: Any

    def packed(self) -> bytes:
        """Return type and contents as files have them.

        Raises:
            InputError: A number is beyond its type.
        """
        kind = _TYPE.pack(KIND_NUMBERS[self.kind])
        if not isinstance(self.value, list | tuple):
            return kind + self._contents([self.value])
        start = _TYPE.pack(KIND_NUMBERS[ARRAY])
        start += _ARRAY.pack(KIND_NUMBERS[self.kind], len(self.value))
        return start + self._contents(self.value)

    def _contents(self, items: Sequence[Any]) -> bytes:
        if self.kind == STRING:
            return b"".join(_text(item) for item in items)
        if self.kind == "bool":
            return bytes(map(bool, items))
        dtype = np.dtype(self.kind).newbyteorder("<")
        try:
            return np.array(items, dtype).tobytes()
        except OverflowError:
            wrong = next(item for item in items if not np.can_cast(np.min_scalar_type(item), dtype))
            raise InputError(
                f"{wrong} is beyond {self.kind}.", "Give a wider type.", value=wrong
            ) from None


@dataclass(frozen=True)
class NewTensor:
    """One tensor that is to be written.

    Attributes:
        name: Its name.
        dims: Sizes of the dimensions, of those that lie together in a row first.
        type_id: Number of its element type.
        chunks: Makers of its bytes, in order.
        stored_bytes: Bytes of a tensor of another file, which may be of a type that is not known;
            None where they follow from the type.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    chunks: Chunks
    stored_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        row_bytes = TYPES[self.type_id].row_bytes(self.dims[0] if self.dims else 1)
        if row_bytes is None:
            raise InputError(
                f"{self.name}: rows of {self.dims[0]} values are not whole blocks of "
                f"{TYPES[self.type_id].name}.",
                "Choose another type for the rows.",
                tensor=self.name,
            )
        return row_bytes * prod(self.dims[1:])


def header_of(
    values: Mapping[str, NewValue | GgufValue], tensors: Sequence[NewTensor], alignment: int
) -> bytes:
    """Return the beginning of a file, up to its first tensor.

    Args:
        values: Metadata by key, in order; of other files as they are stored there.
        tensors: What the file holds, in order; see `padded_chunks` for their bytes.
        alignment: Bytes of which tensors start at multiples; the metadata states it.
    """
    parts = [_START.pack(b"GGUF", _VERSION, len(tensors), len(values))]
    parts += [_text(key) + value.packed() for key, value in values.items()]
    offset = 0
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        parts += [_text(tensor.name), dims, _PLACE.pack(tensor.type_id, offset)]
        offset += tensor.size_bytes + -tensor.size_bytes % alignment
    content = b"".join(parts)
    return content + bytes(-len(content) % alignment)


def padded_chunks(tensors: Sequence[NewTensor], alignment: int) -> Chunks:
    """Return the makers of all that follows the header: tensors, each padded to the alignment."""
    for tensor in tensors:
        yield from tensor.chunks
        if padding := -tensor.size_bytes % alignment:
            yield partial(bytes, padding)


def _text(text: str) -> bytes:
    stored = text.encode()
    return _LENGTH.pack(len(stored)) + stored

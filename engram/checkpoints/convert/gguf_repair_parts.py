"""`NewPart`: a GGUF file that is to appear, of new metadata and of the tensors of another file."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from engram.storage.copied_bytes import copy_stretch
from engram.storage.gguf_headers import GgufFile, GgufTensor, read_gguf_header
from engram.storage.gguf_parts import GgufFiles, join_parts
from engram.storage.gguf_values import GgufValue
from engram.storage.gguf_writer import NewTensor, NewValue, header_of

Values = Mapping[str, NewValue | GgufValue]


@dataclass(frozen=True)
class NewPlace:
    """A tensor in a file that is to appear.

    Attributes:
        tensor: Its name, dimensions, type and bytes.
        origin: The tensor with its bytes; None for a new one.
        content: The bytes of a new one.
    """

    tensor: NewTensor
    origin: GgufTensor | None
    content: bytes = b""

    @classmethod
    def of(cls, origin: GgufTensor, name: str, stored_bytes: int) -> NewPlace:
        """Take a tensor as it is, under a name."""
        return cls(NewTensor(name, origin.dims, origin.type_id, (), stored_bytes), origin)

    def read(self, offset: int, count: int) -> bytes:
        """Read some of its bytes."""
        if self.origin is None:
            return self.content[offset : offset + count]
        count = min(count, self.tensor.size_bytes - offset)
        return self.origin.source.read(self.origin.start + offset, count)


@dataclass(frozen=True, eq=False)
class NewPart:
    """A file that is to appear.

    Attributes:
        name: Name of the file.
        values: Its metadata, in order.
        places: Its tensors, in order.
        alignment: Bytes of which tensors start at multiples.
        origin: The file that it is made from; None for one that has no counterpart.
    """

    name: str
    values: Values
    places: Sequence[NewPlace]
    alignment: int
    origin: GgufFile | None

    @cached_property
    def header(self) -> bytes:
        """The beginning of the file, up to its first tensor."""
        return header_of(self.values, [place.tensor for place in self.places], self.alignment)

    @cached_property
    def starts(self) -> list[int]:
        """First byte of each tensor, and the end of the file."""
        starts = [len(self.header)]
        for place in self.places:
            end = starts[-1] + place.tensor.size_bytes
            starts.append(end + -end % self.alignment)
        return starts

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self.starts[-1]

    @cached_property
    def is_kept(self) -> bool:
        """Whether it is its origin, byte by byte."""
        if self.origin is None or dict(self.values) != dict(self.origin.values):
            return False
        stays = [
            place.origin is not None
            and place.tensor.name == place.origin.name
            and place.origin.start == start
            for place, start in zip(self.places, self.starts, strict=False)
        ]
        return len(stays) == len(self.origin.tensors) and all(stays)

    @property
    def taken_bytes(self) -> int:
        """Bytes that the file takes on the disk: holes of its origin stay holes."""
        status = None if self.origin is None else self.origin.path.stat()
        return self.size_bytes if status is None else min(self.size_bytes, 512 * status.st_blocks)

    def write(self, file: int, step: Callable[[int], object]) -> None:
        """Write the file as a stream.

        Args:
            file: Descriptor of an empty file.
            step: Told the bytes of every part that is done.

        Raises:
            CorruptFileError: A file that is read ends before a tensor does.
        """
        _write_all(file, self.header, 0)
        step(len(self.header))
        for place, (start, end) in zip(self.places, pairwise(self.starts), strict=True):
            size, origin = place.tensor.size_bytes, place.origin
            if origin is None:
                _write_all(file, place.content, start)
            else:
                copy_stretch(origin.path, origin.start, file, start, size, step)
            step(end - start - (0 if origin is None else size))
        os.ftruncate(file, self.size_bytes)


@dataclass(frozen=True, eq=False)
class _Planned:
    """`Source` of a file that is to appear, read before it is written.

    Attributes:
        path: Where it is to appear.
        part: The file.
    """

    path: Path
    part: NewPart

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.part.size_bytes

    @property
    def window_bytes(self) -> tuple[int, int]:
        """See `Source`."""
        return 2**20, 2**20

    def read(self, offset: int, count: int) -> bytes:
        """See `Source`."""
        starts, header = self.part.starts, self.part.header
        content, end = header[offset : offset + count], min(offset + count, self.size)
        while (at := offset + len(content)) < end:
            index = bisect_right(starts, at) - 1
            place, stop = self.part.places[index], min(starts[index + 1], end)
            found = place.read(at - starts[index], stop - at)
            content += found + bytes(stop - at - len(found))
        return content

    def read_each(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Source`."""
        return [self.read(offset, count) for offset, count in places]


def read_planned(parts: Sequence[NewPart], folder: Path) -> GgufFiles:
    """Read the headers of files as they will be.

    Args:
        parts: The files of a model.
        folder: Where they are to appear.

    Raises:
        CorruptFileError: Two of them have a tensor of the same name.
    """
    return join_parts(
        [
            part.origin
            if part.is_kept and part.origin is not None
            else read_gguf_header(_Planned(folder / part.name, part))
            for part in parts
        ]
    )


def stored_bytes(part: GgufFile) -> dict[str, int]:
    """Bytes of each tensor of a file; of one of an unknown type those up to the next one."""
    starts = sorted({*(tensor.start for tensor in part.tensors.values()), part.file_bytes})
    return {
        name: starts[bisect_right(starts, tensor.start)] - tensor.start
        if tensor.data_bytes is None
        else tensor.data_bytes
        for name, tensor in part.tensors.items()
    }


def _write_all(file: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(file, content, at)
        content, at = content[written:], at + written

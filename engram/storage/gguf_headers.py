"""Reads what GGUF files hold from their headers alone; no tensor is read.

Damage that hides the rest of the header is an error. Problems for which a loader would refuse a
header that can be read to its end are listed in `GgufFile.problems`.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engram.errors import CorruptFileError
from engram.storage.ggml_types import TYPES, GgmlType
from engram.storage.gguf_values import GgufValue, read_value
from engram.storage.gguf_walk import LocalFile, Source, Walk

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMS, _MAX_SIZE = 4, 2**63  # ggml's own limits
_MAX_KEYS, _MAX_TENSORS = 2**16, 2**18  # files have some dozens, and some thousands
_START, _COUNTS = struct.Struct("<4sI"), struct.Struct("<QQ")
_DIM_COUNT, _TYPE_AND_OFFSET = struct.Struct("<I"), struct.Struct("<IQ")
# The fewest bytes of a key with its value, and of a tensor.
_KEY_BYTES, _TENSOR_BYTES = 8 + 1 + 4 + 1, 8 + 1 + 4 + 4 + 8


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor as a GGUF header describes it.

    Attributes:
        name: Its name.
        dims: Sizes of the dimensions, of those that lie together in a row first.
        type_id: Number of its element type.
        start: First byte, counted from the start of the file.
        path: The file, as messages name it.
        source: The file, to read from.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    start: int
    path: Path
    source: Source = field(repr=False, compare=False)

    @property
    def type(self) -> GgmlType | None:
        """Element type; None where its number is unknown."""
        return TYPES.get(self.type_id)

    @property
    def type_name(self) -> str:
        """Name of the element type; of an unknown one its number, as in ``type 144``."""
        return f"type {self.type_id}" if self.type is None else self.type.name

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one row; None where the type is unknown or does not divide the row."""
        return self.type.row_bytes(self.dims[0] if self.dims else 1) if self.type else None

    @property
    def data_bytes(self) -> int | None:
        """Bytes of all rows; None where those of a row are."""
        row = self.row_bytes
        return None if row is None else row * math.prod(self.dims[1:])

    @property
    def stop(self) -> int | None:
        """Byte after the last one; None where the bytes of a row are."""
        data = self.data_bytes
        return None if data is None else self.start + data


@dataclass(frozen=True)
class GgufProblem:
    """Something in a readable header that a loader would refuse.

    Attributes:
        code: HALF_DONE (the file ends before a tensor does), UNALIGNED, NOT_CONSECUTIVE,
            PARTIAL_BLOCK, UNKNOWN_TYPE, NESTED_ARRAY, NOT_UTF8; of parts SPLIT_NO, SPLIT_COUNT,
            SPLIT_TENSORS or SPLIT_NAME.
        name: The tensor or the key.
        message: The problem as a sentence.
        path: The file.
    """

    code: str
    name: str
    message: str
    path: Path


@dataclass(frozen=True)
class GgufFile:
    """Header of one GGUF file.

    Attributes:
        path: The file.
        version: Version of the format.
        values: Metadata by key, in the order of the file.
        tensors: Tensors by name, in the order of the file.
        alignment: Bytes of which tensors start at multiples.
        header_bytes: Bytes of the header.
        data_start: First byte after the header at which a tensor can start.
        file_bytes: Size of the file.
        problems: What a loader would refuse.
    """

    path: Path
    version: int
    values: Mapping[str, GgufValue]
    tensors: Mapping[str, GgufTensor]
    alignment: int
    header_bytes: int
    data_start: int
    file_bytes: int
    problems: tuple[GgufProblem, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file.

    Args:
        path: The file.

    Raises:
        MissingFileError: The file is not there or may not be read.
        CorruptFileError: It is not a GGUF file of version 2 or 3 for little-endian machines, ends
            inside of its header, or contradicts itself there.
    """
    return read_gguf_header(LocalFile.at(path))


def read_gguf_header(source: Source) -> GgufFile:
    """Read the header of a GGUF file wherever its bytes come from.

    Args:
        source: The file.

    Raises:
        CorruptFileError: See `read_gguf`.
    """
    walk = Walk(source)
    version = _version(walk)
    tensor_count, key_count = walk.numbers(_COUNTS, "the counts")
    _check_count(walk, key_count, _KEY_BYTES, _MAX_KEYS, "metadata keys")
    _check_count(walk, tensor_count, _TENSOR_BYTES, _MAX_TENSORS, "tensors")
    values: dict[str, GgufValue] = {}
    for index in range(key_count):
        start = walk.at
        key = walk.name(f"key {index + 1} of {key_count}")
        if key in values:
            raise walk.damaged(f"the key {key} comes a second time", start)
        values[key] = read_value(walk, key)
    alignment = _alignment(values.get("general.alignment"), walk)
    described: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for index in range(tensor_count):
        start = walk.at
        name = walk.name(f"the name of tensor {index + 1} of {tensor_count}")
        if name in described:
            raise walk.damaged(f"the tensor {name} comes a second time", start)
        described[name] = _describe_tensor(walk, name)
    data_start = walk.at + -walk.at % alignment
    tensors = {
        name: GgufTensor(name, dims, type_id, data_start + offset, source.path, source)
        for name, (dims, type_id, offset) in described.items()
    }
    problems = (
        *_problems_of_values(values.values(), source.path),
        *_problems_of_tensors(tensors.values(), alignment, data_start, source.size),
    )
    return GgufFile(
        path=source.path,
        version=version,
        values=values,
        tensors=tensors,
        alignment=alignment,
        header_bytes=walk.at,
        data_start=data_start,
        file_bytes=source.size,
        problems=problems,
    )


def _version(walk: Walk) -> int:
    path = walk.source.path
    if walk.source.size >= len(_MAGIC) and (found := walk.source.read(0, len(_MAGIC))) != _MAGIC:
        raise CorruptFileError(
            f"{path} is not a GGUF file: it starts with {found!r}, not {_MAGIC!r}.",
            "Check the path.",
            path=str(path),
            offset=0,
        )
    _, version = walk.numbers(_START, "the magic and version")
    if version in _VERSIONS:
        return int(version)
    if version & 0xFFFF == 0:
        kind, hint = "for big-endian machines", "Convert it again for little-endian ones."
    else:
        kind, hint = f"of version {version}", "Convert it again with a current converter."
    raise CorruptFileError(
        f"{path} is a GGUF file {kind}; versions 2 and 3 for little-endian machines are read.",
        hint,
        path=str(path),
        offset=len(_MAGIC),
        version=version,
    )


def _check_count(walk: Walk, count: int, least_bytes: int, most: int, what: str) -> None:
    if count > most:
        raise walk.damaged(f"it states {count:,} {what}, more than {most:,}")
    walk.expect(count * least_bytes, f"a header of {count:,} {what}")


def _alignment(value: GgufValue | None, walk: Walk) -> int:
    if value is None:
        return _DEFAULT_ALIGNMENT
    alignment = None if value.is_array else value.scalar()
    if value.kind != "uint32" or not isinstance(alignment, int) or alignment.bit_count() != 1:
        shown = value.described() if alignment is None else f"the {value.kind} {alignment!r:.40}"
        raise walk.damaged(
            f"general.alignment must be a uint32 that is a power of two, got {shown}", value.start
        )
    return alignment


def _describe_tensor(walk: Walk, name: str) -> tuple[tuple[int, ...], int, int]:
    """Read dimensions, type and offset of a tensor."""
    what, start = f"the description of tensor {name}", walk.at
    (count,) = walk.numbers(_DIM_COUNT, what)
    if count > _MAX_DIMS:
        raise walk.damaged(f"tensor {name} has {count:,} dimensions, more than {_MAX_DIMS}", start)
    dims = walk.numbers(struct.Struct(f"<{count}Q"), what)
    if max((math.prod(dims), *dims)) >= _MAX_SIZE:
        raise walk.damaged(f"tensor {name} has {list(dims)} elements, 2^63 or more", start)
    type_id, offset = walk.numbers(_TYPE_AND_OFFSET, what)
    return dims, type_id, offset


def _problems_of_values(values: Iterable[GgufValue], path: Path) -> Iterator[GgufProblem]:
    for value in values:
        if value.kind == "array":
            message = f"{value.key} is an array of arrays, which ggml refuses."
            yield GgufProblem("NESTED_ARRAY", value.key, message, path)
        if not value.is_utf8():
            yield GgufProblem("NOT_UTF8", value.key, f"{value.key} is not UTF-8.", path)


def _problems_of_tensors(
    tensors: Iterable[GgufTensor], alignment: int, data_start: int, file_bytes: int
) -> Iterator[GgufProblem]:
    expected: int | None = data_start
    for tensor in tensors:

        def problem(code: str, message: str, tensor: GgufTensor = tensor) -> GgufProblem:
            return GgufProblem(code, tensor.name, f"{tensor.name} {message}.", tensor.path)

        if tensor.type is None:
            yield problem("UNKNOWN_TYPE", f"is of ggml type {tensor.type_id}, which is unknown")
        elif tensor.row_bytes is None:
            block = f"{tensor.type.name}'s blocks of {tensor.type.block_values}"
            yield problem("PARTIAL_BLOCK", f"has rows of {tensor.dims[:1]} values, not {block}")
        if (tensor.start - data_start) % alignment:
            yield problem(
                "UNALIGNED", f"starts at byte {tensor.start:,}, not at a multiple of {alignment:,}"
            )
        elif expected is not None and tensor.start != expected:
            yield problem(
                "NOT_CONSECUTIVE", f"starts at byte {tensor.start:,} instead of {expected:,}"
            )
        stop = tensor.stop
        if max(tensor.start, stop or 0) > file_bytes:
            ends = f"starts at byte {tensor.start:,}" if stop is None else f"ends at byte {stop:,}"
            yield problem("HALF_DONE", f"{ends} in a file of {file_bytes:,}")
        expected = None if stop is None else stop + (data_start - stop) % alignment

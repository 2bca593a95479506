"""GGUF files as tests need them: any types, sizes, splits and faults; tensors take no disk."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engram.storage.ggml_types import TYPES

# Numbers of value types in files, and how one value is packed.
KINDS = {
    "uint8": (0, "<B"),
    "int8": (1, "<b"),
    "uint16": (2, "<H"),
    "int16": (3, "<h"),
    "uint32": (4, "<I"),
    "int32": (5, "<i"),
    "float32": (6, "<f"),
    "bool": (7, "<?"),
    "string": (8, None),
    "array": (9, None),
    "uint64": (10, "<Q"),
    "int64": (11, "<q"),
    "float64": (12, "<d"),
}


@dataclass(frozen=True)
class Array:
    """An array of one kind; of arrays, where the kind is array."""

    kind: str
    items: Sequence[Any]


@dataclass(frozen=True)
class Tensor:
    """A tensor of zeros: dims in GGUF's order, number of its type, bytes where that is unknown."""

    dims: Sequence[int]
    type_id: int
    bytes: int | None = None

    @property
    def data_bytes(self) -> int:
        if self.bytes is not None:
            return self.bytes
        form = TYPES[self.type_id]
        return prod(self.dims) // form.block_values * form.block_bytes


# A single value is a pair of its kind and itself.
Values = Mapping[str, Array | tuple[str, Any]]
Offsets = Callable[[int, int], int]


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def packed(kind: str, value: Any) -> bytes:
    if kind == "string":
        return text(value)
    if kind == "array":
        number, _ = KINDS[value.kind]
        inner = b"".join(packed(value.kind, item) for item in value.items)
        return struct.pack("<IQ", number, len(value.items)) + inner
    return struct.pack(KINDS[kind][1], value)


def header(
    values: Sequence[tuple[str | bytes, Array | tuple[str, Any]]],
    tensors: Sequence[tuple[str | bytes, Tensor]] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    offset: Offsets = lambda index, right: right,
) -> tuple[bytes, int]:
    """Return a header with its padding, and the bytes of all tensors with theirs."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(values))]
    for key, value in values:
        kind, item = ("array", value) if isinstance(value, Array) else value
        parts += [text(key), struct.pack("<I", KINDS[kind][0]), packed(kind, item)]
    end = 0
    for index, (name, tensor) in enumerate(tensors):
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        parts += [text(name), dims, struct.pack("<IQ", tensor.type_id, offset(index, end))]
        end += tensor.data_bytes + -tensor.data_bytes % alignment
    content = b"".join(parts)
    return content + bytes(-len(content) % alignment), end


def write(
    path: Path,
    values: Values,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    version: int = 3,
    missing_bytes: int = 0,
    offset: Offsets = lambda index, right: right,
) -> Path:
    """Write a file; its alignment is that of its metadata.

    Args:
        path: The file.
        values: Metadata by key.
        tensors: Tensors by name.
        version: Version of the format.
        missing_bytes: Bytes that are missing at the end.
        offset: Offset of a tensor, given its index and the right one.
    """
    stated = values.get("general.alignment")
    alignment = stated[1] if isinstance(stated, tuple) else 32
    content, data_bytes = header(
        [*values.items()],
        [*(tensors or {}).items()],
        version=version,
        alignment=alignment,
        offset=offset,
    )
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + data_bytes - missing_bytes)
    return path


def write_parts(
    folder: Path,
    values: Values,
    parts: Sequence[Mapping[str, Tensor]],
    *,
    stem: str = "model",
    total: int | None = None,
    **changed: int,
) -> list[Path]:
    """Write a split model; ``changed`` has other values of split_no or split_count."""
    count, tensors = len(parts), sum(map(len, parts)) if total is None else total
    paths = []
    for index, part in enumerate(parts):
        split = {
            "split.no": ("uint16", changed.get("split_no", index)),
            "split.count": ("uint16", changed.get("split_count", count)),
            "split.tensors.count": ("int32", tensors),
        }
        path = folder / f"{stem}-{index + 1:05}-of-{count:05}.gguf"
        paths.append(write(path, {**(values if index == 0 else {}), **split}, part))
    return paths


def every_kind() -> dict[str, Array | tuple[str, Any]]:
    """One single value and one array of each kind, at the ends of their ranges."""
    ends = {
        **{f"uint{bits}": [0, 1, 2**bits - 1] for bits in (8, 16, 32, 64)},
        **{f"int{bits}": [-(2 ** (bits - 1)), 0, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
        "float32": [0.1, -1.5, float("inf")],
        "float64": [0.1, -1e300, 5e-324],
        "bool": [True, False, True],
        "string": ["", "Grüße \U0001f40d", "a\0b"],
    }
    single = {f"one.{kind}": (kind, items[-1]) for kind, items in ends.items()}
    arrays = {f"some.{kind}": Array(kind, items) for kind, items in ends.items()}
    return {"general.architecture": ("string", "deepseek41"), **single, **arrays}


V41_ROWS = (384006168, 384016682)


def v41_values(vocab: int = 129280, merges: int = 127741) -> dict[str, Array | tuple[str, Any]]:
    """Metadata of the size that DeepSeek-V4.1's has, in the dialect of ds4."""
    tokens = [f"token {index:09}" for index in range(vocab)]
    return {
        "general.architecture": ("string", "deepseek41"),
        "general.alignment": ("uint32", 16384),
        "deepseek41.engram.layer_ids": Array("uint32", [1, 14]),
        "deepseek41.engram.rows": Array("uint32", V41_ROWS),
        "deepseek41.engram.token_map": Array("uint32", [index % 99092 for index in range(vocab)]),
        "deepseek41.engram.multipliers": Array("uint64", [2**45 + 2 * k + 1 for k in range(8)]),
        "tokenizer.ggml.tokens": Array("string", tokens),
        "tokenizer.ggml.token_type": Array("int32", [1] * vocab),
        "tokenizer.ggml.merges": Array("string", tokens[:merges]),
    }


def v41_tensors() -> dict[str, Tensor]:
    """The two tables of DeepSeek-V4.1 in the dialect of ds4, and a piece of the base."""
    tables = {
        f"blk.{layer}.engram_embd.weight": Tensor((264, rows), 24)
        for layer, rows in zip((1, 14), V41_ROWS, strict=True)
    }
    return {"token_embd.weight": Tensor((5120, 129280), 1), **tables}


@dataclass
class Elsewhere:
    """A file whose bytes come from memory, with the ranges that were read of it."""

    content: bytes
    size: int
    path: Path = Path("elsewhere.gguf")
    window_bytes: tuple[int, int] = (2**16, 2**20)

    def __post_init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, count: int) -> bytes:
        self.reads.append((offset, count))
        held = self.content[offset : offset + count]
        return held + bytes(max(0, min(count, self.size - offset) - len(held)))

"""Safetensors files as streams: the header first, then each tensor chunk by chunk."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from engram.storage.chunks import Chunks
from engram.storage.dtypes import DTYPES


@dataclass(frozen=True)
class TensorStream:
    """One tensor that is to be written.

    Attributes:
        name: Name in the file.
        tag: Dtype as safetensors names it, such as BF16.
        shape: Sizes of the dimensions.
        chunks: Makers of its bytes, in order.
    """

    name: str
    tag: str
    shape: tuple[int, ...]
    chunks: Chunks

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * DTYPES[self.tag].bits // 8


def plan_shards(
    tensors: Sequence[TensorStream], max_shard_bytes: int, prefix: str = "engram"
) -> list[tuple[str, list[TensorStream]]]:
    """Distribute tensors over files, in order; a tensor above the bound has a file of its own.

    Args:
        tensors: What is to be written.
        max_shard_bytes: Bytes of a file, unless one tensor has more.
        prefix: What file names start with.

    Returns:
        File name and tensors of every shard.
    """
    shards: list[list[TensorStream]] = []
    for tensor in tensors:
        used = sum(item.size_bytes for item in shards[-1]) if shards else 0
        if not shards or used + tensor.size_bytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return [
        (f"{prefix}-{index:05d}-of-{len(shards):05d}.safetensors", shard)
        for index, shard in enumerate(shards, start=1)
    ]


def header_bytes(
    tensors: Sequence[TensorStream],
    separators: tuple[str, str] = (",", ":"),
    aligned_to: int = 8,
) -> bytes:
    """Return the beginning of a safetensors file: the header, and its length before it.

    Args:
        tensors: What the file holds, in order.
        separators: Texts between the items of the header's JSON, and after its keys.
        aligned_to: Bytes of which the place of the first tensor is a multiple.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.tag,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=separators).encode()
    text += b" " * (-(8 + len(text)) % aligned_to)
    return len(text).to_bytes(8, "little") + text


def chunks_of(tensors: Iterable[TensorStream]) -> Chunks:
    """Return the makers of all bytes that follow the header, in order."""
    return (maker for tensor in tensors for maker in tensor.chunks)

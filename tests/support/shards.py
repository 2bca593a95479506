"""Safetensors files of streams, as plans of folders write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engram.storage.safetensors_writer import TensorStream, chunks_of, header_bytes
from engram.storage.unfinished import Place


def write_shard(path: Path, tensors: Sequence[TensorStream]) -> None:
    Place(path.parent).write(
        path.name, header_bytes(tensors), chunks_of(tensors), lambda size: None
    )

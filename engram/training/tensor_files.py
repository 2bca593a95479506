"""Safetensors files of tensors that several processes hold: written block by block by the first.

Shapes: n rows of a block, W values of a row.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.nn.rows import Rows
from engram.nn.stored_dtypes import TAGS
from engram.storage.safetensors_headers import read_header
from engram.storage.safetensors_writer import TensorStream, header_bytes
from engram.training.shards import gathered_blocks, read_rows


@dataclass(frozen=True)
class SharedRows:
    """Rows that processes share, as a tensor of a file.

    Attributes:
        rows: Those of this process.
        total_rows: Rows of all.
    """

    rows: Rows
    total_rows: int

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self.rows.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of all processes, and the values of a row."""
        return self.total_rows, self.rows.width


Contents = Mapping[str, Tensor | SharedRows]


def write_tensors(path: Path | None, contents: Contents) -> None:
    """Write a safetensors file; a collective where processes share rows.

    Args:
        path: The file, which must not be there; None on all processes but the first.
        contents: The tensors by name, in order; the same names on every process.
    """
    with ExitStack() as stack:
        file = None if path is None else stack.enter_context(path.open("xb"))
        if file is not None:
            file.write(header_bytes(described(contents)))
        for value in contents.values():
            for block in _blocks(value):
                if file is not None:
                    file.write(tensor_bytes(block).data)
        if file is not None:
            file.flush()
            os.fsync(file.fileno())


def read_tensors(path: Path, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read tensors of a safetensors file into memory.

    Args:
        path: The file.
        wanted: Their names; all when None.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in wanted or file.keys()}


def fill_rows(path: Path, name: str, rows: Rows) -> None:
    """Fill this process's rows from a tensor of a file.

    Args:
        path: A safetensors file.
        name: The tensor with the rows of all processes.
        rows: Those of this one.

    Raises:
        CorruptFileError: The file is torn.
    """
    read_rows(path, read_header(path)[name].start, rows)


def described(contents: Contents) -> list[TensorStream]:
    """Describe tensors as a file's header does: those of all processes; without their bytes."""
    return [
        TensorStream(name, TAGS[value.dtype], tuple(value.shape), ())
        for name, value in contents.items()
    ]


def _blocks(value: Tensor | SharedRows) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        return iter([value.detach().cpu()])
    return gathered_blocks(value.rows, value.total_rows)

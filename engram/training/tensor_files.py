"""Safetensors files of tensors that several processes hold: written block by block by the first.

Shapes: n rows of a block, W values of a row.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.hf.tables import TORCH_DTYPES
from engram.nn.rows import Rows
from engram.storage.safetensors_headers import read_header
from engram.storage.safetensors_writer import TensorStream, header_bytes
from engram.training.shards import gathered_blocks, read_rows

_TAGS = {dtype: tag for tag, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class SharedRows:
    """Rows that processes share, as a tensor of a file.

    Attributes:
        rows: Those of this process.
        total_rows: Rows of all.
    """

    rows: Rows
    total_rows: int


Contents = Mapping[str, Tensor | SharedRows]


def write_tensors(path: Path | None, contents: Contents) -> None:
    """Write a safetensors file; a collective where processes share rows.

    Args:
        path: The file, which must not be there; None on all processes but the first.
        contents: The tensors by name, in order; the same names on every process.
    """
    described = [
        TensorStream(name, tag_of(value), shape_of(value), ()) for name, value in contents.items()
    ]
    with ExitStack() as stack:
        file = None if path is None else stack.enter_context(path.open("xb"))
        if file is not None:
            file.write(header_bytes(described))
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


def tag_of(value: Tensor | SharedRows) -> str:
    """Return a tensor's dtype as safetensors names it."""
    return _TAGS[value.dtype if isinstance(value, Tensor) else value.rows.dtype]


def shape_of(value: Tensor | SharedRows) -> tuple[int, ...]:
    """Return the shape of a tensor in its file: of the rows of all processes."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return value.total_rows, value.rows.width


def _blocks(value: Tensor | SharedRows) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        return iter([value.detach().cpu()])
    return gathered_blocks(value.rows, value.total_rows)


def sharded_names(contents: Contents, most_bytes: int) -> list[list[str]]:
    """Distribute tensors over files, in order; see `plan_shards`.

    Args:
        contents: The tensors.
        most_bytes: Bytes of a file, unless one tensor has more.
    """
    files: list[list[str]] = []
    used = 0
    for name, value in contents.items():
        size = TensorStream(name, tag_of(value), shape_of(value), ()).size_bytes
        if not files or used + size > most_bytes:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def names_of_files(count: int, prefix: str = "engram") -> Sequence[str]:
    """Name the files of a memory, as attaching does."""
    return [f"{prefix}-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]

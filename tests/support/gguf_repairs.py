"""Repairs of GGUF files, compared with files that an independent writer made without the fault."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engram
from engram.checkpoints.convert.gguf_repair import Repaired, repair_gguf
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.storage.gguf_headers import GgufFile, read_gguf
from support.gguf_faults import codes
from support.gguf_files import Array, Tensor, write_parts
from support.gguf_memories import fill, write_memory


def contents(path: Path) -> tuple[dict[str, bytes], dict[str, tuple[Any, ...]]]:
    """Keys with types and values, and tensors with types and the ends of their bytes."""
    file = read_gguf(path)
    values = {key: value.packed() for key, value in file.values.items()}
    return values, {
        name: (it.size, it.type_id, *ends(file, name)) for name, it in file.tensors.items()
    }


def ends(file: GgufFile, name: str) -> tuple[bytes, bytes]:
    """The first and the last bytes of a tensor."""
    tensor = file.tensors[name]
    stop = tensor.stop or tensor.start
    return tensor.source.read(tensor.start, 512), tensor.source.read(max(0, stop - 512), 512)


def mended(folder: Path, name: str, expected: set[str], **fault: Any) -> Repaired:
    """Repair a memory with a fault; the result is the file that was written without it.

    Args:
        folder: A folder for the files.
        name: Name of the dialect.
        expected: Codes that `verify` names of the file, but for what follows from them.
        **fault: The fault, as `write_memory` takes it.
    """
    options = {key: fault.pop(key) for key in ("tokenizer", "engine") if key in fault}
    source, output = folder / "source.gguf", folder / "repaired.gguf"
    write_memory(source, name, **fault)
    before, status = contents(source), source.stat()
    found = codes(source) - {"SILENT_OFF"}
    assert expected <= found
    result = repair_gguf(source, output, overwrite=True, **options)
    assert {fault.code for fault in result.mended} == found
    assert result.written
    assert (contents(source), source.stat()) == (before, status)
    assert codes(output) == set()
    assert engram.verify(output, engine=options.get("engine")).ok
    right = folder / "right.gguf"
    write_memory(right, name)
    assert contents(output) == contents(right)
    assert open_gguf(output).dialect.name == name
    return result


def parts_of(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Keys and tensors of a file, for one that is written anew."""
    file = read_gguf(path)
    values: dict[str, Any] = {}
    for key, value in file.values.items():
        if not value.is_array:
            values[key] = (value.kind, value.scalar())
        elif value.kind == "string":
            values[key] = Array("string", value.texts())
        else:
            values[key] = Array(value.kind, value.numbers().tolist())
    tensors = {name: Tensor(it.dims, it.type_id) for name, it in file.tensors.items()}
    return values, tensors


def split_memory(folder: Path, name: str, **fault: Any) -> list[Path]:
    """Write a memory in three parts: tables and weights of its layers are in the last two."""
    folder.mkdir()
    changed = {key: fault.pop(key) for key in ("split_no", "split_count", "total") if key in fault}
    whole = write_memory(folder.with_suffix(".gguf"), name, **fault)
    values, tensors = parts_of(whole)
    names = sorted(tensors, key=lambda it: it.startswith("blk."))
    cuts = (0, sum(not it.startswith("blk.") for it in names), len(names) - 2, len(names))
    parts = [{it: tensors[it] for it in names[a:b]} for a, b in pairwise(cuts)]
    paths = write_parts(folder, values, parts, **changed)
    whole_file = read_gguf(whole)
    for path in paths:  # constants that are tensors
        own = {it: whole_file.tensors[it] for it in read_gguf(path).tensors}
        fill(
            path,
            {
                it: np.frombuffer(tensor.source.read(tensor.start, tensor.data_bytes), np.uint8)
                for it, tensor in own.items()
                if (tensor.data_bytes or 0) < 2**20
            },
        )
    whole.unlink()
    return paths


def refused(folder: Path, error: type[Exception], path: Path, **options: Any) -> Any:
    """Try to repair a file that cannot be; returns the error, after which nothing is there."""
    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        repair_gguf(path, folder / "refused.gguf", **options)
    assert sorted(folder.iterdir()) == before
    return caught.value

"""Repairs of GGUF files, compared with files that an independent writer made without the fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engram
from engram.checkpoints.convert.gguf_repair import Repaired, repair_gguf
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.storage.gguf_headers import GgufFile, read_gguf
from support.gguf_faults import codes
from support.gguf_memories import write_memory


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


def refused(folder: Path, error: type[Exception], path: Path, **options: Any) -> Any:
    """Try to repair a file that cannot be; returns the error, after which nothing is there."""
    import pytest

    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        repair_gguf(path, folder / "refused.gguf", **options)
    assert sorted(folder.iterdir()) == before
    return caught.value

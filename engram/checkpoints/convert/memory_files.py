"""The files that a memory is read from, whichever they are."""

from pathlib import Path

from engram.checkpoints.convert.gguf_source import GgufSource
from engram.checkpoints.read.checkpoint import Checkpoint


def memory_files(memory: Checkpoint | GgufSource) -> list[Path]:
    """Return the files that a memory is read from."""
    if isinstance(memory, GgufSource):
        return [part.path for part in memory.memory.files.parts]
    return sorted({info.path for info in memory.tensors.values()})

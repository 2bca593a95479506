"""Headers of a checkpoint on the Hugging Face hub, by range requests; no weight file is fetched."""

from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, MissingFileError
from engram.storage import hub
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    MAX_HEADER_BYTES,
    SINGLE_FILE,
    TensorInfo,
    describe_tensors,
)
from engram.storage.stored import Files, Stored

# Most headers are shorter.
_FIRST_BYTES = 100_000


def read_hub(name: str, revision: str | None, config: dict[str, Any]) -> Stored:
    """Read the headers of a repository on the hub.

    Args:
        name: Its id, such as ``deepseek-ai/DeepSeek-V4.1-Flash``.
        revision: Branch, tag or commit; the newest when None.
        config: Its config.json.

    Raises:
        MissingFileError: It is not there, may not be seen, or cannot be reached.
    """
    from huggingface_hub.errors import EntryNotFoundError

    def read(info: TensorInfo) -> bytes:
        with hub.naming_failures(name, revision):
            content = hub.read_range(name, str(info.path), revision, info.start, info.stop)
        if len(content) != info.stop - info.start:
            raise CorruptFileError(
                f"{info.path} of {name} ends before byte {info.stop}.",
                "Download or copy it again.",
            )
        return content

    def header(file: str) -> dict[str, TensorInfo]:
        try:
            start = hub.read_range(name, file, revision, 0, _FIRST_BYTES)
        except EntryNotFoundError:
            raise MissingFileError(
                f"{file} is not in the repository, and the index names it."
            ) from None
        length, text = int.from_bytes(start[:8], "little"), start[8:]
        if len(text) < length <= MAX_HEADER_BYTES:
            text += hub.read_range(name, file, revision, len(start), 8 + length)
        if len(start) < 8 or len(text) < length:
            raise CorruptFileError(
                f"{file} is not a safetensors file: its header should have {length} bytes.",
                path=file,
            )
        return describe_tensors(text[:length], Path(file), None)

    stored = Stored(name=name, folder=None, config=config, read=read)
    files: Files = {}
    with hub.naming_failures(name, revision):
        if hub.has_file(name, SINGLE_FILE, revision):
            files = {SINGLE_FILE: None}
        elif hub.has_file(name, INDEX_FILE, revision):
            files = stored.indexed(hub.download(name, INDEX_FILE, revision, offline=False))
        stored.take(files, header)
    return stored

"""`find_gguf`: whether a target is a model in GGUF, here or on the hub."""

from pathlib import Path

from engram.checkpoints.gguf.gguf_memory import holds_gguf
from engram.checkpoints.published.recognise import is_hub_id
from engram.storage.file_names import exists
from engram.storage.gguf_on_hub import HubGguf, find_on_hub


def find_gguf(target: str | Path, revision: str | None = None) -> Path | HubGguf | None:
    """Find a model in GGUF; no header is read.

    Args:
        target: A file or folder; on the hub ``organisation/name``, or
            ``organisation/name/file.gguf`` for one of its models.
        revision: Branch, tag or commit on the hub.

    Returns:
        Its place; None where the target is something else.

    Raises:
        InputError: The repository holds several models.
    """
    path = Path(target)
    if exists(path):
        return path if holds_gguf(path) else None
    if isinstance(target, Path):
        return None
    repository, file = "/".join(target.split("/")[:2]), "/".join(target.split("/")[2:])
    if not is_hub_id(repository):
        return None
    if file:
        return HubGguf(repository, file, revision) if file.endswith(".gguf") else None
    return find_on_hub(repository, revision)

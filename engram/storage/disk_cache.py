"""Cache on disk for small results; losing one costs only time."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from engram.errors import EngramError
from engram.storage.files import atomic_write
from engram.storage.staging import clean

_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Return the cache folder: ``$ENGRAM_CACHE``, or engram/ in the user's cache folder."""
    if own := os.environ.get("ENGRAM_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "engram"


def read_cached(kind: str, key: str) -> bytes | None:
    """Return a result of `write_cached`, or None if it is missing or damaged.

    Args:
        kind: Folder of results of the same kind.
        key: Digest or name of the inputs of the result, usable as a file name.
    """
    try:
        path = cache_folder() / kind / key
        stored = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    with suppress(OSError):
        clean(path)  # the writer may have been killed before removing its hidden folder
    content = stored[_DIGEST_BYTES:]
    return content if stored == _seal(kind, key, content) + content else None


def write_cached(kind: str, key: str, content: bytes) -> None:
    """Store a result; a cache that cannot be written is not an error."""
    # EngramError: a full disk, or not a file. RuntimeError: there is no home folder.
    with suppress(EngramError, OSError, RuntimeError):
        folder = cache_folder() / kind
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / key) as file:
            file.write(_seal(kind, key, content) + content)


def _seal(kind: str, key: str, content: bytes) -> bytes:
    """Return a digest of key and value, to detect torn or misplaced files."""
    return hashlib.sha256(f"{kind}/{key}\n".encode() + content).digest()

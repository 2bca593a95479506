"""A folder of results that appears whole or not at all, with a manifest of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from engram import folders
from engram.corpus.manifests import FILES_SHAPE
from engram.errors import EngramError
from engram.files import write_json
from engram.json_files import read_json

MANIFEST = "manifest.json"
_BLOCK_BYTES = 2**20


def check_folder(folder: Path, schema: str, overwrite: bool) -> None:
    """Check that a folder of results may appear at a path, see `engram.folders.check_folder`.

    Args:
        folder: Where it is to appear.
        schema: `schema` in the manifest of a folder that may be replaced.
        overwrite: Whether it may be replaced.
    """
    folders.check_folder(folder, partial(_own_files, schema=schema), overwrite)


def new_folder(folder: Path, schema: str, overwrite: bool) -> AbstractContextManager[Path]:
    """Give a temporary sibling that becomes `folder`, see `engram.folders.new_folder`."""
    return folders.new_folder(folder, partial(_own_files, schema=schema), overwrite)


def write_manifest(
    folder: Path, values: dict[str, Any], digests: Mapping[str, str] | None = None
) -> int:
    """Write the manifest: `values`, and the size and sha256 of every file of the folder.

    Args:
        folder: The folder.
        values: What else it says.
        digests: The sha256 of files by name, where it is known.

    Returns:
        Bytes of all the files, the manifest's own included.
    """
    known = digests or {}
    files = [
        {
            "name": file.name,
            "bytes": file.stat().st_size,
            "sha256": known.get(file.name) or sha256_of(file),
        }
        for file in sorted(folder.iterdir())
    ]
    write_json(folder / MANIFEST, {**values, "files": files})
    return sum(file.stat().st_size for file in folder.iterdir())


def listed_bytes(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Return the bytes of a folder that is whole: its manifest's own and the files it lists."""
    return (
        sum(int(file["bytes"]) for file in manifest["files"]) + (folder / MANIFEST).stat().st_size
    )


def _own_files(folder: Path, schema: str) -> set[str] | None:
    """Names of the files that a folder's manifest lists; None when it has no such manifest."""
    try:
        values = read_json(folder / MANIFEST, FILES_SHAPE, file_names=True)
        if values["schema"] != schema:
            return None
        return {MANIFEST, *(file["name"] for file in values["files"])}
    except (OSError, EngramError):
        return None


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()

"""A folder of results that appears whole or not at all, with a manifest of its files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from engram.corpus.results.manifests import find_manifest
from engram.corpus.results.work_folder import discard_spent
from engram.corpus.text.sources import MANIFEST as MANIFEST
from engram.errors import CorruptFileError
from engram.storage import folders
from engram.storage.files import sha256_of, write_json
from engram.units import plural


def check_folder(folder: Path, schema: str, overwrite: bool) -> None:
    """Check that a folder of results can be created at a path, see `folders.check_folder`.

    The remains of a build that was killed after the folder appeared are removed.

    Args:
        folder: Path of the folder.
        schema: `schema` in the manifest of a folder that may be replaced.
        overwrite: Whether it may be replaced.
    """
    discard_spent(folder)
    folders.check_folder(folder, partial(_own_files, schema=schema), overwrite)


def new_folder(folder: Path, schema: str, overwrite: bool) -> AbstractContextManager[Path]:
    """Provide a temporary sibling that becomes `folder`, see `folders.new_folder`."""
    return folders.new_folder(folder, partial(_own_files, schema=schema), overwrite)


def write_manifest(
    folder: Path, values: dict[str, Any], digests: Mapping[str, str] | None = None
) -> int:
    """Write the manifest: `values`, and the size and sha256 of every file of the folder.

    Args:
        folder: The folder.
        values: Its other keys.
        digests: The known sha256 of files, by name.

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


def damage(folder: Path, manifest: Mapping[str, Any], *, digests: bool = False) -> list[str]:
    """Compare the files of a folder with its manifest.

    Args:
        folder: The folder.
        manifest: Its manifest.
        digests: Whether to compare their sha256 too, and not only names and sizes.

    Returns:
        Each file that does not match the manifest, with the reason.
    """
    wrong = []
    for file in manifest["files"]:
        path, size_bytes = folder / Path(file["name"]).name, int(file["bytes"])
        found_bytes = path.stat().st_size if path.is_file() else None
        if found_bytes is None:
            wrong.append(f"{path.name} is missing")
        elif found_bytes != size_bytes:
            what = "truncated" if found_bytes < size_bytes else "too long"
            wrong.append(f"{path.name} is {what}: {found_bytes:,} bytes of {size_bytes:,}")
        elif digests and sha256_of(path) != file["sha256"]:
            wrong.append(f"{path.name} was changed: its sha256 is not the manifest's")
    return wrong


def check_whole(
    folder: Path, manifest: Mapping[str, Any], hint: str, *, digests: bool = False
) -> None:
    """Check that the files of a folder are those that its manifest lists.

    Args:
        folder: The folder.
        manifest: Its manifest.
        hint: The next step if they do not match.
        digests: See `damage`.

    Raises:
        CorruptFileError: One is missing or changed.
    """
    if wrong := damage(folder, manifest, digests=digests):
        more = f", and {plural(len(wrong) - 1, 'more file')}" if len(wrong) > 1 else ""
        raise CorruptFileError(
            f"{folder} is damaged: {wrong[0]}{more}.", hint, folder=str(folder), files=wrong
        )


def listed_bytes(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Return the bytes of a complete folder: its manifest and the files listed there."""
    return (
        sum(int(file["bytes"]) for file in manifest["files"]) + (folder / MANIFEST).stat().st_size
    )


def _own_files(folder: Path, schema: str) -> set[str] | None:
    """Return the names of the files in a folder's manifest; None without a valid manifest."""
    if (manifest := find_manifest(folder, schema)) is None:
        return None
    return {MANIFEST, *(file["name"] for file in manifest["files"])}

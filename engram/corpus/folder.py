"""A folder of results that appears whole or not at all, with a manifest of its files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.errors import InputError
from engram.files import write_json

MANIFEST = "manifest.json"
_BLOCK_BYTES = 2**20


def check_folder(folder: Path, schema: str, overwrite: bool) -> None:
    """Check that a folder of results may appear at a path.

    Args:
        folder: Where it is to appear.
        schema: `schema` in the manifest of a folder that may be replaced.
        overwrite: Whether it may be replaced.

    Raises:
        InputError: Something else is there, or a folder of results and `overwrite` is False.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    files = _own_files(folder, schema) if folder.is_dir() else None
    if files is None:
        raise InputError(
            f"{folder} is there already and was not written by this command; it is not replaced.",
            "Choose another folder.",
            output=str(folder),
        )
    if not overwrite:
        raise InputError(
            f"{folder} is there already.",
            "Choose another folder, or pass --overwrite to replace it.",
            output=str(folder),
        )
    others = sorted({file.name for file in folder.iterdir()} - files)
    if others:
        raise InputError(
            f"{folder} also holds {', '.join(others[:3])}, which this command did not write; the "
            "folder is not replaced.",
            "Move them away, or choose another folder.",
            output=str(folder),
            files=others,
        )


@contextmanager
def new_folder(folder: Path, schema: str, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes `folder` when the block ends well.

    When it does not, the sibling is removed, and what was at `folder` is still there.

    Args:
        folder: See `check_folder`.
        schema: See `check_folder`.
        overwrite: See `check_folder`.

    Yields:
        The sibling, empty.

    Raises:
        InputError: See `check_folder`.
    """
    folder = folder.resolve()
    check_folder(folder, schema, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    sibling = folder.with_name(f".{folder.name}.{mark}.part")
    sibling.mkdir()
    try:
        yield sibling
        _sync(sibling)
        check_folder(folder, schema, overwrite)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{mark}.old")
            folder.rename(old)
            try:
                sibling.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            _remove(old, schema)
        else:
            sibling.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(sibling, ignore_errors=True)
        raise


def write_manifest(folder: Path, values: dict[str, Any]) -> int:
    """Write the manifest: `values`, and the size and sha256 of every file of the folder.

    Returns:
        Bytes of all the files, the manifest's own included.
    """
    files = [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
    ]
    write_json(folder / MANIFEST, {**values, "files": files})
    return sum(file.stat().st_size for file in folder.iterdir())


def _own_files(folder: Path, schema: str) -> set[str] | None:
    """Names of the files that a folder's manifest lists; None when it has no such manifest."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if values["schema"] != schema:
            return None
        return {MANIFEST, *(str(file["name"]) for file in values["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(folder: Path, schema: str) -> None:
    for name in _own_files(folder, schema) or ():
        # Only names: a manifest must not lead out of its folder.
        (folder / Path(name).name).unlink(missing_ok=True)
    folder.rmdir()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A folder of results that appears whole or not at all, with a manifest of its files."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.corpus.results.manifests import SHAPES, find_manifest
from engram.corpus.results.work_folder import (
    ASSEMBLED,
    check_work,
    discard_spent,
    working,
)
from engram.corpus.text.sources import MANIFEST as MANIFEST
from engram.errors import CorruptFileError
from engram.storage import folders
from engram.storage.files import sha256_of, write_json
from engram.threads import usable_cores
from engram.units import plural


@dataclass(frozen=True)
class ResultFolder:
    """A folder of results to be written.

    Attributes:
        path: The folder to appear.
        schema: `schema` in its manifest, and in that of a folder that may be replaced.
        resume: Whether to continue an unfinished build; a finished one is recognised.
        overwrite: Whether a finished or unfinished folder that is there may be replaced.
    """

    path: Path
    schema: str
    resume: bool = False
    overwrite: bool = False

    def check(self, job: dict[str, Any]) -> None:
        """Check that the folder can be created, and that no unfinished one is lost.

        The remains of a build that was killed after the folder appeared are removed.

        Args:
            job: See `check_work`.

        Raises:
            InputError: The path exists and may not be replaced, or see `working`.
        """
        discard_spent(self.path)
        folders.check_folder(self.path, self._own_files, self.overwrite)
        check_work(self.path, job, self.resume, self.overwrite)

    def working(self, job: dict[str, Any]) -> AbstractContextManager[Path]:
        """Check, and provide the hidden folder of the build, see `work_folder.working`."""
        self.check(job)
        return working(self.path, job, self.resume)

    def new(self) -> AbstractContextManager[Path]:
        """Provide a temporary sibling that becomes the folder, see `folders.new_folder`."""
        return folders.new_folder(self.path, self._own_files, self.overwrite)

    def find(self) -> dict[str, Any] | None:
        """Return the manifest of a folder to recognise; None if there is none."""
        return find_manifest(self.path, self.schema, SHAPES[self.schema]) if self.resume else None

    def finished(self, expected: dict[str, Any], again: str) -> dict[str, Any] | None:
        """Return the manifest of the folder to recognise; None unless it is the one asked for.

        Args:
            expected: All that its manifest must say.
            again: The next step if it is damaged.

        Raises:
            CorruptFileError: A file is missing or changed; with `overwrite` it counts as none.
        """
        manifest = self.find()
        if manifest is None or not json.loads(json.dumps(expected)).items() <= manifest.items():
            return None
        if not self.overwrite:
            check_whole(self.path, manifest, f"{again}: --overwrite instead of --resume.")
        return None if damage(self.path, manifest) else manifest

    def _own_files(self, folder: Path) -> set[str] | None:
        """Return the names of the files in a folder's manifest; None without a valid manifest."""
        manifest = find_manifest(folder, self.schema)
        return None if manifest is None else {MANIFEST, *(it["name"] for it in manifest["files"])}


def write_manifest(
    folder: Path, work: Path, values: dict[str, Any], digests: Mapping[str, str]
) -> int:
    """Write the manifest: `values`, and the size and sha256 of every file of the folder.

    Args:
        folder: The folder.
        work: The hidden folder of its build, where it is recorded that the results are complete.
        values: Its other keys.
        digests: The known sha256 of files, by name.

    Returns:
        Bytes of all the files, the manifest's own included.
    """

    def described(file: Path) -> dict[str, Any]:
        return {
            "name": file.name,
            "bytes": file.stat().st_size,
            "sha256": digests.get(file.name) or sha256_of(file),
        }

    with ThreadPoolExecutor(usable_cores()) as pool:
        files = list(pool.map(described, sorted(folder.iterdir())))
    write_json(folder / MANIFEST, {**values, "files": files})
    write_json(work / ASSEMBLED, {MANIFEST: sha256_of(folder / MANIFEST)})
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

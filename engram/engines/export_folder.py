"""The folder of an export: it appears whole, and describes itself in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engram.errors import EngramError
from engram.storage.files import sha256_of
from engram.storage.folders import new_folder
from engram.storage.json_files import TEXT, read_json


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export.

    Attributes:
        name: Its name in the folder.
        holds: What it holds, in a line.
        bytes: Its size.
        sha256: Its digest.
    """

    name: str
    holds: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportFolder:
    """A folder of an export, to be written.

    Attributes:
        path: The folder to appear.
        manifest: Name of the file that describes it, and lists the others under ``files``.
        schema: `schema` in that file, and in that of a folder that may be replaced.
        overwrite: Whether a folder of the same command may be replaced.
    """

    path: Path
    manifest: str
    schema: str
    overwrite: bool

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Give the hidden folder that becomes this one when the block ends well.

        Raises:
            InputError: Something is there that may not be replaced.
        """
        with new_folder(self.path, self._own_files, self.overwrite) as part:
            yield part

    def write(
        self, part: Path, writers: Mapping[str, tuple[str, Callable[[Path], object]]]
    ) -> tuple[ExportedFile, ...]:
        """Write files into the hidden folder.

        Args:
            part: The hidden folder.
            writers: By name of a file: what it holds, and a function that writes it to a path.
        """
        files = []
        for name, (holds, write) in writers.items():
            write(part / name)
            size = (part / name).stat().st_size
            files.append(ExportedFile(name, holds, size, sha256_of(part / name)))
        return tuple(files)

    def describe(
        self, part: Path, values: Mapping[str, Any], files: tuple[ExportedFile, ...]
    ) -> None:
        """Write the file that describes the folder: JSON with a line for every key."""
        listed = {"schema": self.schema, **values, "files": list(map(asdict, files))}
        lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in listed.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (part / self.manifest).write_text(text, encoding="ascii")

    def _own_files(self, folder: Path) -> set[str] | None:
        """Name what the same command wrote into a folder; None when it did not."""
        try:
            stated = read_json(folder / self.manifest, {"schema": TEXT, "files": [{"name": TEXT}]})
        except (EngramError, OSError):
            return None
        if stated["schema"] != self.schema:
            return None
        return {self.manifest, *(file["name"] for file in stated["files"])}


def _lines(value: Any) -> str:
    """Return JSON that gives each object of a list a line of its own."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"
    return json.dumps(value, allow_nan=False)

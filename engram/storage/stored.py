"""`Stored`: config and tensors of a checkpoint by its files, and their faults."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, EngramError, MissingFileError
from engram.storage.file_names import is_weight_file
from engram.storage.json_files import read_json
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    INDEX_SHAPE,
    SINGLE_FILE,
    TensorInfo,
    read_header,
)
from engram.units import listed

# DeepSeek's releases keep the config of their own inference code beside the one of transformers.
CONFIG_FILES = ("config.json", "inference/config.json")
NAMED = 3  # as many as a message names
_AT_A_TIME = 8

# Names that an index places in each file; None where all of a file's tensors count.
Files = Mapping[str, list[str] | None]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A checkpoint as its config and headers describe it; no weight is read.

    Attributes:
        name: What it was asked for by.
        folder: Where it is; None for one on the hub, whose files may have other lengths than
            their headers call for.
        config: Its config.json, empty when there is none.
        read: Returns the bytes of a tensor.
        tensors: What the headers describe, by name.
        problems: What is wrong with the files.
        unread: Tensors that the index places in files that cannot be read.
        missing: Files that the index names and that are not there.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    read: Callable[[TensorInfo], bytes]
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    problems: list[EngramError] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files, which are here."""
        return sum(path.stat().st_size for path in {info.path for info in self.tensors.values()})

    def integers(self, name: str) -> list[int]:
        """Read a small tensor of 64-bit integers."""
        info = self.tensors[name]
        if info.dtype != "I64":
            raise CorruptFileError(f"{name} is {info.dtype}, not I64.")
        return list(struct.unpack(f"<{info.size}q", self.read(info)))

    def demand_whole(self) -> None:
        """Refuse files that cannot be read.

        Raises:
            MissingFileError: A shard is not there, or there are no weights.
            CorruptFileError: A file is torn, or the index contradicts the files.
        """
        if self.missing:
            raise MissingFileError(
                f"{self.name} lacks {listed(self.missing, NAMED)}, named by its index.",
                "Download the checkpoint again; finished files are kept.",
                missing=self.missing,
            )
        if self.problems:
            hint = self.problems[0].hint if len(self.problems) == 1 else ""
            raise CorruptFileError(
                self.problems[0].message,
                hint or f"See all of it: engram verify {self.name}",
                path=self.name,
            )
        if not self.tensors:
            raise MissingFileError(
                f"{self.name} has no safetensors weights.", "Copy the whole folder.", path=self.name
            )

    def indexed(self, index: Path) -> Files:
        """Return the names that an index places in each file."""
        try:
            weight_map = read_json(index, INDEX_SHAPE)["weight_map"]
        except CorruptFileError as error:
            self.problems.append(error)
            return {}
        files: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(file, []).append(name)
        for file in sorted(it for it in files if not is_weight_file(it)):
            self.problems.append(
                CorruptFileError(
                    f"{index} names {file!r}, outside of its folder or not a .safetensors file."
                )
            )
            self.unread.update(files.pop(file))
        return files

    def take(self, files: Files, header: Callable[[str], dict[str, TensorInfo]]) -> None:
        """Take the tensors of files.

        Args:
            files: See `indexed`.
            header: Reads the header of a file.
        """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            headers = {file: pool.submit(header, file) for file in files}
        for file, names in sorted(files.items()):
            try:
                found = headers[file].result()
            except EngramError as error:
                self.problems.append(error)
                self.unread.update(names or ())
                if names and isinstance(error, MissingFileError):
                    self.missing.append(file)
                continue
            absent = [name for name in names or () if name not in found]
            if absent:
                self.problems.append(
                    CorruptFileError(
                        f"{listed(absent, NAMED)} should be in {file}, and is not there."
                    )
                )
            wanted = set(found if names is None else names)
            new = {name: info for name, info in found.items() if name in wanted}
            twice = next((name for name in new if name in self.tensors), None)
            if twice is not None:
                self.problems.append(
                    CorruptFileError(f"{twice} is in {file}, and in another file too.")
                )
            self.tensors.update(new)


def read_stored(
    path: Path,
    config: dict[str, Any],
    *,
    needs_index: bool = False,
    beside: Files | None = None,
) -> Stored:
    """Read the headers of a folder, or of a lone safetensors file.

    Args:
        path: The folder or file.
        config: Its config.json.
        needs_index: Take no files that transformers would not find: neither `SINGLE_FILE` nor named
            by an index.
        beside: Further files below the folder, which its index does not name.
    """
    folder, index = path if path.is_dir() else path.parent, path / INDEX_FILE
    stored = Stored(name=str(path), folder=folder, config=config, read=_read)

    def header(file: str) -> dict[str, TensorInfo]:
        if not (folder / file).is_file():
            raise MissingFileError(f"{file} is not there, and the index names it.")
        return read_header(folder / file)

    files: Files = {}
    if path.is_file():
        files = {path.name: None}
    elif (path / SINGLE_FILE).is_file():
        files = {SINGLE_FILE: None}
    elif index.is_file():
        files = stored.indexed(index)
    elif not needs_index:
        files = {file.name: None for file in path.glob("*.safetensors")}
    stored.take({**(beside or {}), **files}, header)
    return stored


def _read(info: TensorInfo) -> bytes:
    with info.path.open("rb") as file:
        file.seek(info.start)
        return file.read(info.stop - info.start)


def read_folder_headers(folder: Path) -> dict[str, TensorInfo] | None:
    """Read the headers of all weights of a Hugging Face folder.

    Like transformers, prefers ``model.safetensors`` to the index of shards.

    Returns:
        The tensors that the model has by name; None when the folder holds no safetensors weights.

    Raises:
        CorruptFileError: A file or the index is torn, or the index names a file elsewhere.
        MissingFileError: A shard that the index names is not there.
    """
    stored = read_stored(folder, {}, needs_index=True)
    if not (stored.tensors or stored.problems):
        return None
    stored.demand_whole()
    return stored.tensors


def stored_model_config(path: Path) -> dict[str, Any]:
    """Read the config of a folder; empty for one without, and for a lone file.

    Raises:
        CorruptFileError: It is not a JSON object.
    """
    files = [path / name for name in CONFIG_FILES if (path / name).is_file()]
    return read_json(files[0]) if files else {}

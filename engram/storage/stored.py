"""`Stored`: config and tensors of a checkpoint by its files, and their faults."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, EngramError, MissingFileError
from engram.storage.file_names import is_weight_file
from engram.storage.json_files import parse_json, read_json
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    INDEX_SHAPE,
    SINGLE_FILE,
    TensorInfo,
    read_header,
)

# DeepSeek's releases keep the config of their own inference code beside the one of transformers.
CONFIG_FILES = ("config.json", "inference/config.json")
_NAMED = 3  # as many as a message names


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A checkpoint as its config and headers describe it; no weight is read.

    Attributes:
        name: What it was asked for by.
        folder: Where it is; None for one on the hub.
        config: Its config.json, empty when there is none.
        tensors: What the headers describe, by name.
        problems: What is wrong with the files.
        unread: Tensors that the index places in files that cannot be read.
        missing: Files that the index names and that are not there.
        hint: What to do about the first problem; empty where nothing but to look at all of them.
        lengths_known: Whether files were compared with the lengths that their headers call for.
        read: Returns the bytes of a tensor.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    problems: list[str]
    unread: set[str]
    missing: list[str]
    hint: str
    lengths_known: bool
    read: Callable[[TensorInfo], bytes]

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files, which are here."""
        return sum(path.stat().st_size for path in {info.path for info in self.tensors.values()})

    @property
    def files(self) -> int:
        """Number of weight files that were read."""
        return len({info.path for info in self.tensors.values()})

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
                f"{self.name} lacks {named(self.missing)}, named by its index.",
                "Download the checkpoint again; finished files are kept.",
                missing=self.missing,
            )
        if self.problems:
            hint = self.hint if len(self.problems) == 1 else ""
            raise CorruptFileError(
                self.problems[0],
                hint or f"See all of it: engram verify {self.name}",
                path=self.name,
            )
        if not self.tensors:
            raise MissingFileError(
                f"{self.name} has no safetensors weights.", "Copy the whole folder.", path=self.name
            )


def named(names: Iterable[str]) -> str:
    """The first names of many."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


@dataclass
class Gathering:
    """Headers on their way into a `Stored`, one file after the other."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    hint: str = ""

    def _failed(self, error: EngramError) -> None:
        self.hint = self.hint or error.hint
        self.problems.append(error.message)

    def all_of(self, file: str, header: Callable[[], dict[str, TensorInfo]]) -> None:
        """Take every tensor of a file that no index speaks of."""
        try:
            found = header()
        except EngramError as error:
            self._failed(error)
            return
        twice = next((name for name in found if name in self.tensors), None)
        if twice is not None:
            self.problems.append(f"{twice} is in {file}, and in another file too.")
        self.tensors.update(found)

    def indexed(
        self,
        content: bytes,
        where: str,
        header: Callable[[str], dict[str, TensorInfo]],
        each: Callable[[Callable[[str], None], list[str]], None] | None = None,
    ) -> None:
        """Take the tensors that an index names, from the files that it names.

        Args:
            content: The index.
            where: Its name.
            header: Reads the header of a file.
            each: Calls a function with every file, some at a time; one after the other when None.
        """
        try:
            weight_map = parse_json(content, where, INDEX_SHAPE)["weight_map"]
        except CorruptFileError as error:
            self._failed(error)
            return
        files: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(file, []).append(name)
        for file in sorted((it for it in files if not is_weight_file(it)), key=repr):
            what = "which is outside of its folder or no .safetensors file"
            self.problems.append(f"{where} names {file!r}, {what}.")
            self.unread.update(files.pop(file))
        found: dict[str, dict[str, TensorInfo] | EngramError] = {}

        def read(file: str) -> None:
            try:
                found[file] = header(file)
            except EngramError as error:
                found[file] = error

        if each is None:
            for file in files:
                read(file)
        else:
            each(read, list(files))
        for file, names in sorted(files.items()):
            self._take(file, names, found[file])

    def _take(
        self, file: str, names: list[str], found: dict[str, TensorInfo] | EngramError
    ) -> None:
        if isinstance(found, EngramError):
            self.unread.update(names)
            self.missing += [file] if isinstance(found, MissingFileError) else []
            self._failed(found)
            return
        wanted = set(names)
        absent = [name for name in names if name not in found]
        if absent:
            self.problems.append(f"{named(absent)} should be in {file}, and is not there.")
        self.tensors.update((name, info) for name, info in found.items() if name in wanted)


def read_stored(path: Path, config: dict[str, Any], *, needs_index: bool = False) -> Stored:
    """Read the headers of a folder, or of a lone safetensors file.

    Args:
        path: The folder or file.
        config: Its config.json.
        needs_index: Take no files that transformers would not find: neither `SINGLE_FILE` nor named
            by an index.
    """
    found, index = Gathering(), path / INDEX_FILE
    if path.is_file():
        found.all_of(path.name, lambda: read_header(path))
    elif (path / SINGLE_FILE).is_file():
        found.all_of(SINGLE_FILE, lambda: read_header(path / SINGLE_FILE))
    elif index.is_file():
        found.indexed(index.read_bytes(), str(index), lambda file: _header(path, file))
    elif not needs_index:
        for file in sorted(path.glob("*.safetensors")):
            found.all_of(file.name, lambda file=file: read_header(file))  # type: ignore[misc]
    return Stored(
        name=str(path),
        folder=path if path.is_dir() else path.parent,
        config=config,
        **vars(found),
        lengths_known=True,
        read=_read,
    )


def _header(folder: Path, file: str) -> dict[str, TensorInfo]:
    if not (folder / file).is_file():
        raise MissingFileError(f"{file} is not there, and the index names it.")
    return read_header(folder / file)


def stored_model_config(path: Path) -> dict[str, Any]:
    """Read the config of a folder; empty for one without, and for a lone file.

    Raises:
        CorruptFileError: It is not a JSON object.
    """
    files = [path / name for name in CONFIG_FILES if (path / name).is_file()]
    config: dict[str, Any] = read_json(files[0]) if files else {}
    return config


def _read(info: TensorInfo) -> bytes:
    with info.path.open("rb") as file:
        file.seek(info.start)
        return file.read(info.stop - info.start)

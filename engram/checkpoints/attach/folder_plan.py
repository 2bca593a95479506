"""`FolderPlan`: a folder of weights that is to appear, of new files and of files that are kept."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engram.errors import InputError
from engram.storage import folders
from engram.storage.copied_bytes import copy_file
from engram.storage.files import Progress, sha256_of, write_json
from engram.storage.room import demand_room
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.safetensors_writer import TensorStream, chunks_of, header_bytes
from engram.storage.unfinished import Notes, Place, described_files, move_in, unfinished

MAX_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """A folder of weights that is to appear.

    Attributes:
        output: The folder.
        shards: New weight files with their tensors; none before they are planned.
        kept: Weight files that stay as they are: where they lie now, by name in the folder.
        kept_tensors: File in the folder and bytes of each of their tensors, by name.
        copies: Other files that stay as they are: where they lie now, by name in the folder.
        texts: Small new files, by name.
        link: Whether weight files that are kept are hard-linked instead of copied.
        inputs: Files that new tensors are made of, beside those that are kept.
        notes: What is to be known of new tensors beside their bytes, when a run is continued.
    """

    output: Path
    shards: Sequence[tuple[str, list[TensorStream]]] = ()
    kept: Mapping[str, Path] = field(default_factory=dict)
    kept_tensors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    copies: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    link: bool = False
    inputs: Sequence[Path] = ()
    notes: Notes | None = None

    def __post_init__(self) -> None:
        """Refuse new weight files of the names of others.

        Raises:
            InputError: A weight file that is kept has the name of a new one.
        """
        for name, _ in self.shards:
            if name in self.kept:
                raise InputError(
                    f"{self.kept[name]} has the name of a new file: {name}.",
                    "Rename it, and its name in the index beside it.",
                )

    @property
    def added_bytes(self) -> int:
        """Bytes of the new tensors."""
        return sum(tensor.size_bytes for _, shard in self.shards for tensor in shard)

    @property
    def written_bytes(self) -> int:
        """Bytes that are written to disk."""
        return sum(file["bytes"] for file in self.files() if file["origin"] != "linked")

    def files(self) -> list[dict[str, Any]]:
        """List the weight files: name, bytes, and where each comes from."""
        origin = "linked" if self.link else "copied"
        kept = [
            {"name": name, "bytes": path.stat().st_size, "origin": origin}
            for name, path in self.kept.items()
        ]
        return kept + [
            {"name": name, "bytes": sum(t.size_bytes for t in shard), "origin": "memory"}
            for name, shard in self.shards
        ]

    @property
    def job(self) -> dict[str, Any]:
        """Everything that the files follow from; see `unfinished`."""
        files = {*self.kept.values(), *self.inputs}
        starts = {
            name: [hashlib.sha256(header_bytes(shard)).hexdigest(), len([*chunks_of(shard)])]
            for name, shard in self.shards
        }
        return {"inputs": described_files(files), "files": starts, "texts": dict(self.texts)}

    def check_room(self, there_bytes: int = 0) -> None:
        """Refuse to write more than the disk has room for.

        Args:
            there_bytes: Bytes that are written already.

        Raises:
            DoesNotFitError: It has too little.
        """
        other_ways, parents = "", self.output.absolute().parents
        here = next(folder for folder in parents if folder.exists()).stat().st_dev
        if not self.link and any(path.stat().st_dev == here for path in self.kept.values()):
            other_ways = ", or pass --link, which links the base's files instead of copying them"
        demand_room(self.output, self.written_bytes - there_bytes, other_ways)

    @contextmanager
    def new_folder(
        self,
        own_files: Callable[[Path], set[str] | None],
        overwrite: bool,
        progress: Progress | None,
        digests: dict[str, str] | None = None,
        resume: bool | None = None,
    ) -> Iterator[Path]:
        """Write everything into a folder that appears whole or not at all; its index last.

        Args:
            own_files: Names the files of a folder that may be replaced.
            overwrite: Replace such a folder.
            progress: Told the bytes written so far.
            digests: Takes the sha256 of every weight file, by name.
            resume: Continue a run that was interrupted; None for runs that cannot be resumed.

        Yields:
            The folder before it appears, for more files.

        Raises:
            InputError: Something is at the output that may not be replaced, or see `unfinished`.
            DoesNotFitError: The disk has too little room.
        """
        with self._place(own_files, overwrite, resume) as place:
            self.check_room(place.size_bytes)
            self.write_weights(place, progress, digests)
            with self.completed(place.folder):
                yield place.folder

    @contextmanager
    def completed(self, folder: Path) -> Iterator[None]:
        """Write everything but weights: small files before the block, the index after it.

        Args:
            folder: The hidden folder, in which the weights are.
        """
        for name, path in self.copies.items():
            place_file(path, folder / name)
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        yield
        # Bytes of tensors, as transformers counts them: without the files' headers.
        kept_bytes = sum(size for _, size in self.kept_tensors.values())
        weight_map = {name: file for name, (file, _) in self.kept_tensors.items()}
        for name, shard in self.shards:
            weight_map |= {tensor.name: name for tensor in shard}
        metadata = {"total_size": self.added_bytes + kept_bytes}
        write_json(folder / INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})

    @contextmanager
    def _place(
        self,
        own_files: Callable[[Path], set[str] | None],
        overwrite: bool,
        resume: bool | None,
    ) -> Iterator[Place]:
        if resume is None:
            with folders.new_folder(self.output, own_files, overwrite) as folder:
                yield Place(folder)
            return
        folders.check_folder(self.output, own_files, overwrite)
        with unfinished(
            self.output, self.job, self.notes, resume=resume, overwrite=overwrite
        ) as place:
            yield place
            place.is_whole = True
            folders.check_folder(self.output, own_files, overwrite)
            move_in(place, None, self.output.resolve())

    def write_weights(
        self, place: Place, progress: Progress | None, digests: dict[str, str] | None = None
    ) -> None:
        """Write the weight files, those that stay as they are first.

        Args:
            place: The hidden folder.
            progress: Told the bytes written so far; what it raises ends the work.
            digests: Takes the sha256 of every file, by name.
        """
        done, total = 0, self.written_bytes

        def step(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            if progress is not None:
                progress(done, total)

        for name, path in self.kept.items():
            size = 0 if self.link else path.stat().st_size
            told = partial(place_file, path, link=self.link, step=step)
            if not place.copy(name, size, told):
                step(size)
            if digests is not None:
                digests[name] = sha256_of(place.folder / name)
        for name, shard in self.shards:
            digest = None if digests is None else hashlib.sha256()
            update = None if digest is None else digest.update
            place.write(name, header_bytes(shard), chunks_of(shard), step, update)
            if digests is not None and digest is not None:
                digests[name] = digest.hexdigest()


def place_file(
    source: Path, target: Path, link: bool = False, step: Callable[[int], object] = lambda _: None
) -> None:
    """Copy a file, or hard-link it; the folder that it is to be in is made.

    Args:
        source: The file.
        target: The new one.
        link: Make a hard link.
        step: Told the bytes of every part that is copied.

    Raises:
        InputError: The file cannot be linked there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not link:
        copy_file(source, target, step)
        return
    try:
        # Resolved, because the hub's cache keeps links to its files.
        os.link(source.resolve(), target)
    except OSError as error:
        raise InputError(
            f"{source} cannot be hard-linked to {target.parent}: {error.strerror}.",
            "Attach without --link, or write to the same disk.",
            path=str(source),
        ) from None

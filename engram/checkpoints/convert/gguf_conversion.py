"""`GgufConversion`: a memory that is to be written into GGUF files, in a dialect of engines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.checkpoints.convert.gguf_source import GgufSource
from engram.checkpoints.convert.recoded import PARTS, Loss, LossRecord, Part
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.config.engram_config import EngramConfig
from engram.errors import EngramError
from engram.layouts.gguf_dialect import GgufDialect
from engram.storage import folders
from engram.storage.files import Progress, check_file, write_json
from engram.storage.gguf_parts import SPLIT_KINDS, part_names
from engram.storage.gguf_values import GgufValue
from engram.storage.gguf_writer import ALIGNMENT, NewTensor, NewValue, header_of, padded_chunks
from engram.storage.json_files import TEXT, read_json
from engram.storage.room import demand_room
from engram.storage.unfinished import described_files, move_in, unfinished

RECORD_FILE = "engram-parts.json"
# Bytes of a part, unless one tensor has more: the hub takes files up to 50 GB.
MAX_PART_BYTES = 48 * 10**9


@dataclass(frozen=True, kw_only=True)
class GgufConversion:
    """Everything that a conversion to GGUF writes.

    Attributes:
        source: The memory that is read.
        dialect: The dialect that is written.
        config: The memory.
        addresses: Its constants.
        output: The file to appear; a folder of parts where it is not named ``*.gguf``.
        values: Metadata by key.
        tensors: Tensors in order, tables last.
        rows: Encoding of the rows of tables.
        alignment: Bytes of which tensors start at multiples.
        inputs: The files that are read.
        record: Where the losses are collected while writing.
    """

    source: Checkpoint | GgufSource
    dialect: GgufDialect
    config: EngramConfig
    addresses: Addresses
    output: Path
    values: Mapping[str, NewValue | GgufValue]
    tensors: Sequence[NewTensor]
    rows: str
    alignment: int
    inputs: Sequence[Path]
    record: LossRecord

    @property
    def to(self) -> str:
        """Name of the dialect."""
        return self.dialect.name

    @property
    def dtypes(self) -> tuple[str, str]:
        """Forms of tables: as they were stored, and as they are to be."""
        return self.source.table_form, self.rows

    def losses(self) -> dict[int, dict[Part, Loss]]:
        """Return the loss by layer and part; known when the conversion is written."""
        return {
            layer_id: {part: self.record.of(layer_id, part) for part in PARTS}
            for layer_id in self.addresses.layer_ids
        }

    @property
    def parts(self) -> list[tuple[str, bytes, Sequence[NewTensor]]]:
        """The files: name, header and tensors of each."""
        if self.is_file:
            header = header_of(self.values, self.tensors, self.alignment)
            return [(self.output.name, header, self.tensors)]
        # Metadata alone comes first: whoever mends it later writes one small file.
        groups: list[list[NewTensor]] = [[], []]
        for tensor in self.tensors:
            if sum(it.size_bytes for it in (*groups[-1], tensor)) > MAX_PART_BYTES and groups[-1]:
                groups.append([])
            groups[-1].append(tensor)
        names = part_names(f"{self.output.name}-00001-of-{len(groups):05}.gguf")
        return [
            (name, header_of(self._values_of(index, len(groups)), group, self.alignment), group)
            for index, (name, group) in enumerate(zip(names, groups, strict=True))
        ]

    def _values_of(self, index: int, count: int) -> dict[str, NewValue | GgufValue]:
        numbers = (index, count, len(self.tensors))
        kinds = zip(SPLIT_KINDS.items(), numbers, strict=True)
        split = {key: NewValue(kind, number) for (key, kind), number in kinds}
        own = self.values if index == 0 else {ALIGNMENT: self.values[ALIGNMENT]}
        return {**own, **split}

    def files(self) -> list[dict[str, Any]]:
        """List the files: name, bytes, and where each comes from."""
        return [
            {"name": name, "bytes": len(header) + self._bytes_of(tensors), "origin": "memory"}
            for name, header, tensors in self.parts
        ]

    @property
    def written_bytes(self) -> int:
        """Bytes that are written to disk."""
        return sum(file["bytes"] for file in self.files())

    def _bytes_of(self, tensors: Sequence[NewTensor]) -> int:
        sizes = (tensor.size_bytes for tensor in tensors)
        return sum(size + -size % self.alignment for size in sizes)

    @property
    def is_file(self) -> bool:
        """Whether the output is one file, and not a folder of parts."""
        return self.output.suffix == ".gguf"

    def check(self, overwrite: bool) -> None:
        """Refuse an output that may not be written.

        Raises:
            InputError: Something is there, or it is what is read.
        """
        for path in self.inputs:
            folders.demand_apart(self.output, path)
        if self.is_file:
            check_file(self.output, overwrite)
        else:
            folders.check_folder(self.output, own_parts, overwrite)

    def check_room(self) -> None:
        """Refuse an output that the disk has no room for.

        Raises:
            DoesNotFitError: It has too little.
        """
        demand_room(self.output, self.written_bytes)

    def write(
        self, *, overwrite: bool = False, resume: bool = False, progress: Progress | None = None
    ) -> None:
        """Write the files, which appear whole or not at all.

        Args:
            overwrite: Replace what this toolkit could have written.
            resume: Continue a run that was interrupted.
            progress: Told the bytes written so far and their total.

        Raises:
            InputError: See `check` and `unfinished`; or values that the rows cannot hold.
            DoesNotFitError: The disk is full.
        """
        parts = self.parts
        starts = {
            name: [
                hashlib.sha256(header).hexdigest(),
                sum(1 for _ in padded_chunks(tensors, self.alignment)),
            ]
            for name, header, tensors in parts
        }
        job = {"inputs": described_files(self.inputs), "files": starts}
        done, total = sum(len(header) for _, header, _ in parts), self.written_bytes

        def step(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            if progress is not None:
                progress(done, total)

        with unfinished(self.output, job, self.record, resume=resume, overwrite=overwrite) as place:
            demand_room(self.output, total - place.size_bytes)
            for name, header, tensors in parts:
                place.write(name, header, padded_chunks(tensors, self.alignment), step)
            if not self.is_file:
                names = [name for name, _, _ in parts]
                write_json(place.folder / RECORD_FILE, {"schema": 1, "files": names})
            place.is_whole = True
            self.check(overwrite)  # the output may have appeared since
            move_in(place, self.output.name if self.is_file else None, self.output.resolve())


def own_parts(folder: Path) -> set[str] | None:
    """Name what a conversion wrote into a folder; None when it did not."""
    try:
        return {RECORD_FILE, *read_json(folder / RECORD_FILE, {"files": [TEXT]})["files"]}
    except (EngramError, OSError):
        return None

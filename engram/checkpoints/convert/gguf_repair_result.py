"""`Repaired`: what a repair of GGUF files mended, and the files that it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engram.checkpoints.convert.gguf_repair_changes import Change
from engram.checkpoints.gguf.file_faults import Fault

Origin = Literal["written", "linked", "copied"]


@dataclass(frozen=True)
class RepairedFile:
    """One file of a repaired model.

    Attributes:
        name: Its name.
        bytes: Its size.
        origin: ``written`` anew, with the tensors of the source; ``linked`` or ``copied`` as it is.
    """

    name: str
    bytes: int
    origin: Origin


@dataclass(frozen=True, repr=False)
class Repaired:
    """Result of `repair_gguf`.

    Attributes:
        source: The model that was read, as it was named.
        output: The file, or the folder of a model in parts.
        dialect: Dialect of the repaired model.
        engine: The engine whose loader takes it, where one was named.
        mended: Faults that the source has, and the result has not.
        changes: What was written, renamed or removed.
        files: The files of the result; none where there was nothing to mend.
        written: Whether they were written, and not only planned.
    """

    source: str
    output: Path
    dialect: str
    engine: str | None
    mended: tuple[Fault, ...]
    changes: tuple[Change, ...]
    files: tuple[RepairedFile, ...]
    written: bool

    def __repr__(self) -> str:
        return f"<Repaired {self.source}: {len(self.mended)} faults mended in {self.output}>"

    @property
    def written_bytes(self) -> int:
        """Bytes of the files that are not links."""
        return sum(file.bytes for file in self.files if file.origin != "linked")

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram convert --repair --json`` prints."""
        return {
            "schema": "engram.repair/1",
            "source": self.source,
            "output": str(self.output),
            "dialect": self.dialect,
            "engine": self.engine,
            "written": self.written,
            "written_bytes": self.written_bytes,
            "files": [vars(file) for file in self.files],
            "mended": [fault._asdict() for fault in self.mended],
            "changes": [change._asdict() for change in self.changes],
        }

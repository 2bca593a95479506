"""`Attached`: a checkpoint with its memory, written or planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.config.table_dtype import TableDtype

if TYPE_CHECKING:
    from engram.checkpoints.attach.attach_plan import AttachPlan


@dataclass(frozen=True, repr=False)
class Attached:
    """Result of `attach`.

    Attributes:
        plan: The base, the memory, and their files.
        dtype: dtype of the tables.
        written: Whether the folder was written, and not only planned.
        removed: Folders that a process that was killed had left, and that are removed.
        max_logit_difference: Largest difference to the base's logits; None when not compared.
    """

    plan: AttachPlan
    dtype: TableDtype
    written: bool
    removed: tuple[Path, ...] = ()
    max_logit_difference: float | None = None

    def __repr__(self) -> str:
        return f"<Attached {self.plan.output}: {self.plan.added_params:,} parameters added>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram attach --json`` prints."""
        plan = self.plan
        return {
            "schema": "engram.attach/1",
            "plan": {
                "base": str(plan.base.folder),
                "base_params": plan.base.params,
                "output": str(plan.output),
                "written": self.written,
                "small_files": plan.small_files(),
                "written_bytes": plan.written_bytes,
                "added_bytes": plan.added_bytes,
                "dtype": self.dtype.name,
                "dtype_from": self.dtype.origin,
                "layers_path": plan.layers_path,
                "layer_ids": plan.addresses.layer_ids,
                "layer_rows": [layer.stored_rows for layer in plan.addresses.layers],
                "fingerprint": plan.addresses.fingerprint,
                "removed": [str(folder) for folder in self.removed],
            },
            "files": plan.files(),
            "added_params": plan.added_params,
            "max_logit_difference": self.max_logit_difference,
        }

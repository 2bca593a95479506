"""`AttachPlan`: a memory that is attached to a base, and its folder; `Attached`: the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.checkpoints.attach.folder_plan import FolderPlan
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CONFIG_FILE
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import TableDtype
from engram.storage.safetensors_headers import INDEX_FILE


@dataclass(frozen=True, kw_only=True)
class AttachPlan(FolderPlan):
    """A memory that is attached to a base, and what is written of the two.

    Attributes:
        base: The checkpoint that is attached to.
        config: The memory, with the dtype that it is written in.
        addresses: Its constants.
        layers_path: Dotted name of the model's list of layers.
        model_config: The attached folder's config.json.
        classes: Config class and model class of the attached checkpoint.
        adapter: Whether the memory alone is written, without the base's files.
        digests: Whether the sha256 of every weight file is recorded.
    """

    base: BaseCheckpoint
    config: EngramConfig
    addresses: Addresses
    layers_path: str
    model_config: dict[str, Any]
    classes: tuple[Any, Any]
    adapter: bool = False
    digests: bool = False

    @property
    def added_params(self) -> int:
        """Parameters of the memory: tables as stored, and dense parts."""
        dense = sum(self.config.rules.dense_parts(self.config.sizes).values())
        rows = sum(layer.stored_rows for layer in self.addresses.layers)
        return rows * self.config.row_width + dense * len(self.addresses.layers)


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
        difference = self.max_logit_difference
        differ = f", logits differ by {difference:.3g}" if difference else ""
        return f"<Attached {self.plan.output}: {self.plan.added_params:,} parameters added{differ}>"

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
                "small_files": sorted(
                    [
                        ADAPTER_FILE if plan.adapter else CONFIG_FILE,
                        INDEX_FILE,
                        *plan.texts,
                        *plan.copies,
                    ]
                ),
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

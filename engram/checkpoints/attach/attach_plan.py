"""`AttachPlan`: a memory that is attached to a base, and its folder; `Attached`: the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CONFIG_FILE
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import TableDtype
from engram.layouts import get_layout
from engram.storage.dtypes import DTYPES
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.safetensors_writer import TensorStream


@dataclass(frozen=True)
class AttachPlan:
    """A memory that is attached to a base, and what is written of the two.

    Attributes:
        base: The checkpoint that is attached to.
        config: The memory, with the dtype that it is written in.
        addresses: Its constants.
        layers_path: Dotted name of the model's list of layers.
        model_config: The attached folder's config.json.
        texts: Small files of the attached folder, by name.
        classes: Config class and model class of the attached checkpoint.
        output: The folder to appear.
        shards: New weight files with their tensors; none before they are planned.
        link: Whether base files are hard-linked instead of copied.
        adapter: Whether the memory alone is written, without the base's files.
        digests: Whether the sha256 of every weight file is recorded.
    """

    base: BaseCheckpoint
    config: EngramConfig
    addresses: Addresses
    layers_path: str
    model_config: dict[str, Any]
    texts: dict[str, str]
    classes: tuple[Any, Any]
    output: Path
    shards: Sequence[tuple[str, list[TensorStream]]] = ()
    link: bool = False
    adapter: bool = False
    digests: bool = False

    @property
    def added_params(self) -> int:
        """Parameters of the memory: tables as stored, and dense parts."""
        dense = sum(get_layout(self.config.layout).dense_parts(self.config.sizes).values())
        rows = sum(layer.stored_rows for layer in self.addresses.layers)
        return rows * self.config.row_width + dense * len(self.addresses.layers)

    @property
    def added_bytes(self) -> int:
        """Bytes of the new shards."""
        return sum(tensor.size_bytes for _, shard in self.shards for tensor in shard)

    @property
    def written_bytes(self) -> int:
        """Bytes that are written to disk."""
        return self.added_bytes + (0 if self.link or self.adapter else self.base.size_bytes)

    @property
    def copied(self) -> Path | None:
        """Folder whose weight files are copied; None when they are linked, or stay there."""
        return None if self.link or self.adapter else self.base.folder

    @property
    def base_shards(self) -> dict[str, str]:
        """Weight files of the base that the folder has: name there, and name in the folder."""
        return {} if self.adapter else self.base.shards

    @property
    def copies(self) -> dict[str, Path]:
        """Small files of the base that are copied, by name in the folder."""
        names = {} if self.adapter else self.base.small_files
        return {new: self.base.folder / old for old, new in names.items()}

    def index(self) -> dict[str, Any]:
        """Return the index of the weight files."""
        weight_map = {} if self.adapter else dict(self.base.weight_map)
        sizes = (prod(shape) * DTYPES[tag].bits // 8 for tag, shape in self.base.tensors.values())
        # Bytes of tensors, as transformers counts them: without the files' headers.
        total_bytes = self.added_bytes + (0 if self.adapter else sum(sizes))
        for name, shard in self.shards:
            weight_map |= {tensor.name: name for tensor in shard}
        return {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}

    def files(self) -> list[dict[str, Any]]:
        """List the weight files of the folder: name, bytes, and where each comes from."""
        origin = "linked" if self.link else "copied"
        kept = [
            {"name": new, "bytes": (self.base.folder / old).stat().st_size, "origin": origin}
            for old, new in self.base_shards.items()
        ]
        return kept + [
            {"name": name, "bytes": sum(t.size_bytes for t in shard), "origin": "memory"}
            for name, shard in self.shards
        ]


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

"""`AttachPlan`: a memory that is attached to a base, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CONFIG_FILE, KEPT_FOLDER
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
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
        dense = sum(self.config.rules.dense_parts(self.config).values())
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

    def small_files(self) -> list[str]:
        """Name the other files of the folder: settings, model card, tokenizer."""
        own = [ADAPTER_FILE if self.adapter else CONFIG_FILE, INDEX_FILE, *self.texts]
        kept = [f"{KEPT_FOLDER}/{name}" for name in self.base.replaced]
        return sorted(own if self.adapter else [*own, *self.base.sidecars, *kept])

    def files(self) -> list[dict[str, Any]]:
        """List the weight files of the folder: name, bytes, and where each comes from."""
        origin = "linked" if self.link else "copied"
        kept = [
            {"name": new, "bytes": (self.base.folder / old).stat().st_size, "origin": origin}
            for old, new in self.base.shards.items()
            if not self.adapter
        ]
        added = [
            {"name": name, "bytes": sum(t.size_bytes for t in shard), "origin": "memory"}
            for name, shard in self.shards
        ]
        return kept + added

"""Folders with the memory of a model that is trained: an adapter, or an attached checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engram.checkpoints.attach.attach import MAX_SHARD_BYTES
from engram.checkpoints.attach.detach import detach
from engram.checkpoints.attach.folder_plan import place_file
from engram.checkpoints.attach.own_files import REMOTE_MODULE
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE, CONFIG_FILE
from engram.checkpoints.read.base_checkpoint import read_base
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import DIGESTS, without_weights
from engram.checkpoints.read.joined_adapter import adapter_settings
from engram.storage.files import sha256_of, write_json
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.safetensors_writer import TensorStream
from engram.training.tensor_files import (
    Contents,
    names_of_files,
    shape_of,
    sharded_names,
    tag_of,
    write_tensors,
)


@dataclass(frozen=True)
class Origin:
    """The attached folder that a run started from, and what it says of its base.

    Attributes:
        opened: The folder.
        folder: Its path.
        adapter: The adapter's settings of its memory, see `adapter_settings`.
    """

    opened: Checkpoint
    folder: Path
    adapter: dict[str, Any]

    @property
    def module_file(self) -> Path:
        """The module beside the weights that `trust_remote_code` loads."""
        return self.folder / f"{REMOTE_MODULE}.py"


def read_origin(opened: Checkpoint, folder: Path, name: str | None = None) -> Origin:
    """Read what a folder that attach wrote says of its base.

    Args:
        opened: The folder.
        folder: Its path.
        name: What people call its base; its own name when None.

    Raises:
        LayoutError: The folder was saved anew: its base may have been trained.
    """
    with TemporaryDirectory(prefix="engram-") as place:
        detach(folder, Path(place) / folder.resolve().name)
        base = read_base(Path(place) / folder.resolve().name, name=name or "")
        module = folder / f"{REMOTE_MODULE}.py"
        recorded = {"small_files": {module.name: sha256_of(module)}}
        config = opened.model_config
        settings = {**config["engram"], DIGESTS: recorded}
        return Origin(opened, folder, adapter_settings(base, {**config, "engram": settings}))


def write_adapter(folder: Path | None, origin: Origin, contents: Contents, card: str) -> None:
    """Write the memory alone, as ``engram attach --adapter`` does; the index comes last.

    Args:
        folder: The folder, which is there; None on all processes but the first.
        origin: The start of the run.
        contents: The memory's tensors.
        card: The model card.
    """
    weight_map, total_bytes = _write_memory(folder, contents)
    if folder is None:
        return
    place_file(origin.module_file, folder / origin.module_file.name)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    write_json(folder / ADAPTER_FILE, origin.adapter)
    _write_index(folder, weight_map, total_bytes)


def write_attached(
    folder: Path | None, origin: Origin, contents: Contents, card: str, *, link: bool
) -> None:
    """Write an attached folder with another memory: the base's files as they are, the index last.

    Args:
        folder: The folder, which is there; None on all processes but the first.
        origin: The start of the run.
        contents: The memory's tensors.
        card: The model card.
        link: Hard-link the base's weight files instead of copying them.
    """
    weight_map, total_bytes = _write_memory(folder, contents)
    if folder is None:
        return
    opened, base = origin.opened, origin.opened.base
    for name in base.shards.values():
        place_file(origin.folder / name, folder / name, link)
    others = {origin.module_file.name, *base.small_files.values()}
    for name in sorted(others):
        place_file(origin.folder / name, folder / name)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    config = opened.model_config
    write_json(folder / CONFIG_FILE, {**config, "engram": without_weights(config["engram"])})
    base_map = {name: info.path.name for name, info in opened.base_tensors.items()}
    total_bytes += sum(info.stop - info.start for info in opened.base_tensors.values())
    _write_index(folder, base_map | weight_map, total_bytes)


def _write_memory(folder: Path | None, contents: Contents) -> tuple[dict[str, str], int]:
    """Write the memory's files; return the file of each tensor, and the bytes of all."""
    groups = sharded_names(contents, MAX_SHARD_BYTES)
    weight_map: dict[str, str] = {}
    for file, names in zip(names_of_files(len(groups)), groups, strict=True):
        path = None if folder is None else folder / file
        write_tensors(path, {name: contents[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    sizes = (
        TensorStream(name, tag_of(value), shape_of(value), ()).size_bytes
        for name, value in contents.items()
    )
    return weight_map, sum(sizes)


def _write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(weight_map)}
    write_json(folder / INDEX_FILE, index)

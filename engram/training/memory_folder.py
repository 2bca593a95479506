"""Folders with the memory of a model that is trained: an adapter, or an attached checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engram.checkpoints.attach.detach import is_saved_anew
from engram.checkpoints.attach.folder_plan import MAX_SHARD_BYTES, place_file
from engram.checkpoints.attach.own_files import REMOTE_MODULE
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE, CONFIG_FILE
from engram.checkpoints.read.base_checkpoint import read_base
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import DIGESTS, without_weights
from engram.checkpoints.read.joined_adapter import adapter_settings
from engram.storage.files import sha256_of, write_json
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.safetensors_writer import plan_shards
from engram.training.tensor_files import Contents, described, write_tensors


@dataclass(frozen=True)
class Origin:
    """The attached folder that a run started from, and what it says of its base.

    Attributes:
        opened: The folder.
        folder: Its path.
        adapter: The adapter's settings of its memory, see `adapter_settings`; None of a folder that
            was saved anew, where the base's own files are not known.
        name: What people call its base.
    """

    opened: Checkpoint
    folder: Path
    adapter: dict[str, Any] | None
    name: str

    @property
    def hub_id(self) -> str | None:
        """Id of its base on the hub, where it is known."""
        return self.adapter["base"]["hub_id"] if self.adapter else None

    @property
    def module_file(self) -> Path:
        """The module beside the weights that `trust_remote_code` loads."""
        return self.folder / f"{REMOTE_MODULE}.py"


def read_origin(
    opened: Checkpoint, folder: Path, base: Path | None = None, name: str = ""
) -> Origin:
    """Read what an attached folder says of its base.

    Args:
        opened: The folder.
        folder: Its path.
        base: Its base, where that is known; else what is in the folder.
        name: What people call it; see `read_base` when empty.

    Raises:
        CorruptFileError: A file of the base is damaged.
    """
    if base is None and is_saved_anew(opened, folder):
        return Origin(opened, folder, None, folder.resolve().name)
    with TemporaryDirectory(prefix="engram-") as place:
        if base is None:
            base = Path(place) / folder.resolve().name
            for old, new in {**opened.base.shards, **opened.base.small_files}.items():
                (base / old).parent.mkdir(parents=True, exist_ok=True)
                (base / old).symlink_to((folder / new).resolve())
        found = read_base(base, name)
    module = folder / f"{REMOTE_MODULE}.py"
    recorded = {"small_files": {module.name: sha256_of(module)}}
    config = opened.model_config
    settings = {**config["engram"], DIGESTS: recorded}
    adapter = adapter_settings(found, {**config, "engram": settings})
    return Origin(opened, folder, adapter, found.name)


def write_adapter(folder: Path | None, origin: Origin, contents: Contents, card: str) -> None:
    """Write the memory alone, as ``engram attach --adapter`` does; the index comes last.

    Of a folder that was saved anew there are the memory's files and their index.

    Args:
        folder: The folder, which is there; None on all processes but the first.
        origin: The start of the run.
        contents: The memory's tensors.
        card: The model card.
    """
    weight_map, total_bytes = _write_memory(folder, contents)
    if folder is None:
        return
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if origin.adapter is not None:
        place_file(origin.module_file, folder / origin.module_file.name)
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
    tensors = described(contents)
    weight_map: dict[str, str] = {}
    for file, shard in plan_shards(tensors, MAX_SHARD_BYTES):
        names = [tensor.name for tensor in shard]
        path = None if folder is None else folder / file
        write_tensors(path, {name: contents[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    return weight_map, sum(tensor.size_bytes for tensor in tensors)


def _write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(weight_map)}
    write_json(folder / INDEX_FILE, index)

"""An adapter and its base: the digest that ties them, and the folder in which they are one."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engram.checkpoints.read.attached_files import ADAPTER_FILE, CONFIG_FILE, damaged
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint, read_base
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import MismatchError, MissingFileError
from engram.storage.safetensors_headers import INDEX_FILE, SINGLE_FILE, read_weight_map


def adapter_settings(base: BaseCheckpoint, model_config: dict[str, Any]) -> dict[str, Any]:
    """Describe an adapter: the config of the whole, and the base that it needs."""
    return {
        "schema": 1,
        "base": {
            "name": base.name,
            "hub_id": base.hub_id,
            "revision": base.commit,
            "tensors_sha256": tensors_digest(base),
        },
        "model_config": model_config,
    }


def tensors_digest(base: BaseCheckpoint) -> str:
    """sha256 over names, dtypes and shapes of a base's tensors, and its config."""
    config = {key: value for key, value in base.config.items() if not key.startswith("_")}
    text = json.dumps([sorted(base.tensors.items()), config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_adapter(folder: Path) -> Checkpoint:
    """Open an adapter.

    Args:
        folder: A folder that `engram attach --adapter` wrote.

    Raises:
        MissingFileError: The folder is not an adapter.
        CorruptFileError: Its settings are not what `adapter_settings` makes.
    """
    demand_file(folder / ADAPTER_FILE)
    return open_checkpoint(folder)


def joined_folder(base_folder: Path, memory: Checkpoint) -> TemporaryDirectory[str]:
    """Link base and adapter together as an attached checkpoint, in a temporary folder.

    Args:
        base_folder: The base checkpoint.
        memory: The adapter.

    Returns:
        The folder, which goes when this object is cleaned up.

    Raises:
        MissingFileError: The adapter, or a file of it, is not there.
        CorruptFileError: Its settings or its index are damaged, or name what is not its own.
        ConfigError: The config of its memory is wrong.
        MismatchError: It was made for another base, or another commit of it; or its addresses are
            not its config's.
    """
    memory.demand_settings()
    adapter, made_for = Path(memory.name), memory.adapter["base"]
    index = adapter / INDEX_FILE
    demand_file(index)
    added = read_weight_map(index)
    base = read_base(base_folder)
    pinned = made_for.get("revision")
    if None not in (pinned, base.commit) and base.commit != pinned:
        raise MismatchError(
            f"{adapter} was made for {made_for['name']} at commit {pinned}, not at {base.commit}.",
            "Leave revision out: the commit that the adapter names is taken then.",
            adapter=str(adapter),
            revision=base.commit,
            expected=pinned,
        )
    if tensors_digest(base) != made_for["tensors_sha256"]:
        raise MismatchError(
            f"{adapter} was made for {made_for['name']}, not for {base_folder}.",
            f"Load it with {made_for['name']}.",
            adapter=str(adapter),
            base=str(base_folder),
        )
    links = base.kept_files
    for file in sorted(set(added.values())):
        # Beside a lone weight file transformers would not look at the index.
        if file in links or file == SINGLE_FILE:
            raise damaged(str(index), f"it names {file!r}, which is the base's")
        demand_file(adapter / file)
    links |= {file: adapter / file for file in added.values()}
    code = {path.name: path for path in adapter.glob("*.py")}
    links |= code | {name: base.folder / name for name in base.sidecars if "/" not in name}
    joined = TemporaryDirectory(prefix="engram-")
    folder = Path(joined.name)
    for name, path in links.items():
        (folder / name).symlink_to(path.resolve())
    index_values = {"metadata": {}, "weight_map": base.weight_map | added}
    (folder / INDEX_FILE).write_text(json.dumps(index_values))
    (folder / CONFIG_FILE).write_text(json.dumps(memory.model_config))
    return joined


def pinned_revision(model: str | Path, memory: Checkpoint) -> str | None:
    """Return the commit of a base on the hub that an adapter was made for.

    Args:
        model: The base, as it is asked for.
        memory: The adapter.

    Returns:
        The commit; None for other models, and where the adapter names none.
    """
    base = memory.adapter["base"]
    is_same = str(model) == base.get("hub_id") and not Path(model).is_dir()
    revision: str | None = base.get("revision") if is_same else None
    return revision


def demand_file(path: Path) -> None:
    """Refuse an adapter that lacks a file.

    Raises:
        MissingFileError: It is not there.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{path} is not there: {path.parent} is not an adapter.",
            "Make one: engram attach MODEL -c CONFIG -o FOLDER --adapter",
            path=str(path),
        )

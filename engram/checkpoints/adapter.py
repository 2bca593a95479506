"""Adapters: a memory in a folder of its own, joined with its base when it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from engram.backbone.headers import INDEX_FILE
from engram.checkpoints.base import CONFIG_FILE, BaseCheckpoint, read_base
from engram.errors import CorruptFileError, MismatchError, MissingFileError

if TYPE_CHECKING:
    from engram.checkpoints.memory import Attachment

ADAPTER_FILE = "engram_adapter.json"


def adapter_settings(base: BaseCheckpoint, attachment: Attachment) -> dict[str, Any]:
    """Describe an adapter: the config of the whole, and the base that it needs."""
    return {
        "schema": 1,
        "base": {
            "name": base.name,
            "tensors_sha256": tensors_digest(base),
        },
        "model_config": attachment.model_config,
    }


def tensors_digest(base: BaseCheckpoint) -> str:
    """sha256 over names, dtypes and shapes of a base's tensors, and its config."""
    config = {key: value for key, value in base.config.items() if not key.startswith("_")}
    text = json.dumps([sorted(base.tensors.items()), config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def joined_folder(base_folder: Path, adapter: Path) -> TemporaryDirectory[str]:
    """Link base and adapter together as an attached checkpoint, in a temporary folder.

    Args:
        base_folder: The base checkpoint.
        adapter: A folder that `engram attach --adapter` wrote.

    Returns:
        The folder, which goes when this object is cleaned up.

    Raises:
        MissingFileError: The adapter is not there.
        CorruptFileError: Its settings or its index cannot be read.
        MismatchError: It was made for another base.
    """
    settings = read_adapter(adapter)
    index = _read(adapter / INDEX_FILE)
    base = read_base(base_folder)
    if tensors_digest(base) != settings["base"]["tensors_sha256"]:
        raise MismatchError(
            f"{adapter} was made for {settings['base']['name']}, not for {base_folder}.",
            f"Load it with {settings['base']['name']}.",
            adapter=str(adapter),
            base=str(base_folder),
        )
    outside = [file for file in index["weight_map"].values() if Path(file).name != file]
    if outside:
        raise CorruptFileError(f"{adapter / INDEX_FILE} names a file outside: {outside[0]}")
    joined = TemporaryDirectory(prefix="engram-")
    folder = Path(joined.name)
    for old, new in base.shards.items():
        (folder / new).symlink_to((base.folder / old).resolve())
    for file in sorted(set(index["weight_map"].values())):
        (folder / file).symlink_to((adapter / file).resolve())
    weight_map = {**base.weight_map, **index["weight_map"]}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / CONFIG_FILE).write_text(json.dumps(settings["model_config"]))
    beside = [base.folder / name for name in base.sidecars if Path(name).name == name]
    for file in [*beside, *adapter.glob("*.py")]:
        (folder / file.name).symlink_to(file.resolve())
    return joined


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read what an adapter says about itself.

    Raises:
        MissingFileError: The folder is no adapter.
        CorruptFileError: Its settings are not JSON.
    """
    return _read(folder / ADAPTER_FILE)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"{path} is not there: {path.parent} is not an adapter.",
            "Make one: engram attach MODEL -c CONFIG -o FOLDER --adapter",
            path=str(path),
        )
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}", path=str(path)) from None
    return values

"""Opens a memory for conversion or look-up: finds its tensors, by headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from engram.addressing.addresses import Addresses
from engram.checkpoints.read.adapter import ADAPTER_FILE
from engram.checkpoints.read.base_checkpoint import CONFIG_FILE
from engram.checkpoints.read.inspect import memory_settings
from engram.checkpoints.read.memory_source import MemorySource, as_stored, shapes_of
from engram.checkpoints.read.published_memory import published_memory
from engram.checkpoints.read.settings import read_settings
from engram.checkpoints.read.stored_tensor import stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import InputError, MissingFileError, UsageError
from engram.storage.safetensors_headers import read_folder_headers
from engram.tensor_names import SCALE, TABLE


def open_memory(path: Path, config: EngramConfig | None = None) -> MemorySource:
    """Find a memory's tensors by headers alone.

    Args:
        path: An attached folder, an adapter, or a folder or safetensors file with published names.
        config: The memory; needed where the files do not state it: the reference demo's.

    Raises:
        MissingFileError: The files, or some of them, are not there.
        InputError: There is no memory in them, or it does not state its config.
        MismatchError: They do not fit the config.
        LayoutError: They hold a kind of memory that is not converted.
    """
    settings = memory_settings(path) if path.is_dir() else None
    return published_memory(path, config) if settings is None else _ours(path, settings, config)


def check_stated(path: Path, addresses: Addresses) -> None:
    """Compare constants that were computed with those that a checkpoint's memory was made with.

    Args:
        path: An attached folder, an adapter, or a folder with published names.
        addresses: The constants of its config and a tokenizer, of all layers.

    Raises:
        MismatchError: They differ: it is another tokenizer, or another config.
    """
    settings = memory_settings(path)
    if settings is not None:
        addresses.check(read_settings(settings, str(path)).addresses.to_dict())
        return
    try:
        memory = open_memory(path)
    except (InputError, MissingFileError):
        return  # one that states nothing to compare with
    memory.check(addresses)


def _ours(path: Path, settings: dict[str, Any], config: EngramConfig | None) -> MemorySource:
    if config is not None:
        raise UsageError(f"{path} states its config: leave -c out.")
    is_adapter = (path / ADAPTER_FILE).is_file()
    stated = read_settings(settings, str(path / (ADAPTER_FILE if is_adapter else CONFIG_FILE)))
    config, addresses, prefix = stated.config, stated.addresses, stated.layers_path
    tensors = read_folder_headers(path)
    if tensors is None:
        raise MissingFileError(
            f"{path} has no safetensors weights.", "Copy the whole folder.", path=str(path)
        )
    layers = {}
    for layer in addresses.layers:
        start = f"{prefix}.{layer.layer_id}.engram."
        shapes = shapes_of(config, layer.stored_rows)
        missing = [start + name for name in shapes if start + name not in tensors]
        if missing:
            raise MissingFileError(
                f"{path} lacks {missing[0]}.", f"Check it: engram verify {path}", tensors=missing
            )
        scale = [tensors[start + SCALE]] if start + SCALE in tensors else []
        layers[layer.layer_id] = {
            name: stored_tensor(
                start + name, shape, [tensors[start + name]], scale if name == TABLE else []
            )
            for name, shape in shapes.items()
        }
    kind: Literal["attached", "adapter"] = "adapter" if is_adapter else "attached"
    return MemorySource(path, kind, as_stored(config, layers), layers, tensors, settings)

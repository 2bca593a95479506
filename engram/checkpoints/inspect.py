"""What an attached folder holds, from its config.json and safetensors headers alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.backbone.headers import TensorInfo, read_folder_headers
from engram.checkpoints.base import CONFIG_FILE, read_config
from engram.config import EngramConfig
from engram.errors import CorruptFileError, InputError, MissingFileError
from engram.layouts import get_layout
from engram.sizing.weights import Group, Weights
from engram.units import dtype_name

_MEMORY_TENSOR = re.compile(r"(?:^|\.)(\d+)\.engram\.(.+)$")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What an attached folder holds.

    Attributes:
        config: The memory, as the folder states it.
        hash_rows: Rows that ids can reach, by layer, in hash order.
        weights: Its tensors in parts: of the memory by layer, and the base as one.
    """

    config: EngramConfig
    hash_rows: dict[int, int]
    weights: tuple[Weights, ...]


def inspect_checkpoint(folder: Path) -> Inspection:
    """Read what an attached folder holds; no tensor is loaded.

    Args:
        folder: A Hugging Face folder with a memory.

    Raises:
        MissingFileError: No config.json, no weights, or a missing shard.
        InputError: The folder has no memory.
        CorruptFileError: A file is torn, or the files lack what config.json says they hold.
    """
    settings = read_config(folder).get("engram")
    if settings is None:
        raise InputError(
            f"{folder} has no memory: its {CONFIG_FILE} lacks the key engram.",
            f"Attach one: engram attach {folder} -c CONFIG -o FOLDER",
            folder=str(folder),
        )
    config, hash_rows = _stated(folder, settings)
    tensors = read_folder_headers(folder)
    if tensors is None:
        raise MissingFileError(
            f"{folder} has no safetensors weights.", "Copy the whole folder.", folder=str(folder)
        )
    of_layer: dict[int, dict[str, TensorInfo]] = {layer_id: {} for layer_id in hash_rows}
    base = []
    for name, info in tensors.items():
        match = _MEMORY_TENSOR.search(name)
        if match is None:
            base.append(info)
        else:
            of_layer.setdefault(int(match[1]), {})[match[2]] = info
    weights = [
        part
        for layer_id, found in of_layer.items()
        for part in _layer_weights(folder, config, layer_id, found)
    ]
    if base:
        weights.append(_weights("base", "base", base))
    return Inspection(config=config, hash_rows=hash_rows, weights=tuple(weights))


def _stated(folder: Path, settings: Any) -> tuple[EngramConfig, dict[int, int]]:
    try:
        config = EngramConfig.from_dict(settings["config"])
        hash_rows = {
            int(layer["layer_id"]): sum(sum(primes) for primes in layer["primes"])
            for layer in settings["addresses"]["layers"]
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(
            f"{folder / CONFIG_FILE}: the key engram is not what attach writes ({error!r}).",
            "Attach again, or restore the file.",
            path=str(folder / CONFIG_FILE),
        ) from None
    return config, hash_rows


def _layer_weights(
    folder: Path, config: EngramConfig, layer_id: int, tensors: Mapping[str, TensorInfo]
) -> list[Weights]:
    """Sort one layer's tensors: the layout's own names, integer constants, and the table."""
    dense: dict[str, list[TensorInfo]] = {}
    names = get_layout(config.layout).dense_shapes(config)
    constants, tables = [], []
    for name, info in tensors.items():
        if name in names:
            dense.setdefault(name.split(".")[0], []).append(info)
        elif info.dtype.startswith(("I", "U", "BOOL")):
            constants.append(info)
        else:
            tables.append(info)
    if len(tables) != 1 or len(tables[0].shape) != 2 or not tables[0].size:
        raise CorruptFileError(
            f"{folder}: layer {layer_id} should have one table of rows, the files hold "
            f"{[list(table.shape) for table in tables] or 'none'}.",
            f"Check it: engram verify {folder}",
            layer_id=layer_id,
        )
    rows = tables[0].shape[0]
    prefix = f"layers.{layer_id}"
    parts = [_weights(f"{prefix}.table", "table", tables, layer_id, rows)]
    parts += [
        _weights(f"{prefix}.{part}", "dense", found, layer_id) for part, found in dense.items()
    ]
    if constants:
        parts.append(_weights(f"{prefix}.constants", "constants", constants, layer_id))
    return parts


def _weights(
    part: str,
    group: Group,
    tensors: list[TensorInfo],
    layer_id: int | None = None,
    rows: int = 0,
) -> Weights:
    values = [info for info in tensors if info.dtype.startswith(("F", "BF"))]
    dtypes = {info.dtype for info in values}
    return Weights(
        part=part,
        group=group,
        params=sum(info.size for info in values),
        size_bytes=sum(info.stop - info.start for info in tensors),
        dtype=_dtype(dtypes.pop()) if len(dtypes) == 1 else None,
        kind="exact",
        rows=rows,
        layer_id=layer_id,
    )


def _dtype(tag: str) -> str | None:
    try:
        return dtype_name(tag)
    except InputError:
        return None

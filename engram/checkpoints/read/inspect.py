"""`Inspection`: the contents of a checkpoint, from its configs and safetensors headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engram.backbone.quantisation import base_params, quantisation_method
from engram.checkpoints.published.formats import MLX_PACKED, MLX_TAG
from engram.checkpoints.published.parts import released_weights
from engram.checkpoints.published.recognise import Released
from engram.checkpoints.published.stored import named
from engram.checkpoints.read.checkpoint import Checkpoint, Kind
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import OWN, read_from
from engram.errors import CorruptFileError, InputError, LayoutError, MissingFileError
from engram.sizing.pages import row_pages
from engram.sizing.weights import Group, Weights
from engram.storage.dtypes import TABLE_DTYPES, dtype_name
from engram.storage.json_files import COUNT, OBJECT, check_shape
from engram.storage.safetensors_headers import TensorInfo
from engram.tensor_names import SCALE, TABLE, layer_and_part

_SETTINGS = {
    "config": OBJECT,
    "addresses": {"layers": [{"layer_id": COUNT, "primes": [[COUNT]]}]},
}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Contents of a checkpoint.

    Attributes:
        kind: A base with a memory that was attached to it, such a memory alone, or a checkpoint
            that was released with its memory.
        layout: Name of the layout.
        title: The layout or family in one line.
        config: The memory in our terms; None for a kind of memory that we do not run.
        hash_rows: Rows that ids can reach, by layer in hash order; None is the layer of tables
            that belong to no layer alone.
        weights: Its tensors in parts: of the memory by layer, and the base as one.
        notes: What should be said with the numbers.
    """

    kind: Kind
    layout: str
    title: str
    config: EngramConfig | None
    hash_rows: Mapping[int | None, int]
    weights: tuple[Weights, ...]
    notes: tuple[str, ...]


def inspect_checkpoint(target: str | Path, revision: str | None = None) -> Inspection:
    """Read what a checkpoint holds; no tensor is loaded.

    Args:
        target: A folder with an attached or released memory, an adapter, a state dict as a lone
            safetensors file, or a hub id.
        revision: Branch, tag or commit on the hub.

    Raises:
        MissingFileError: No config.json, no weights, or a missing file or piece of a table.
        InputError: The checkpoint has no memory.
        ConfigError: Its config lacks what the memory follows from.
        CorruptFileError: A file is torn, or the files lack what the config says they hold.
        LayoutError: Its tables are packed in a way that is not read here.
    """
    opened = open_checkpoint(target, revision)
    if opened.stated is not None:
        opened.files.demand_whole()
        return _inspect_ours(opened, opened.stated)
    if opened.kind == "base" and opened.folder == opened.path:
        opened.demand_config()  # without one, that is what is wrong
    found, name = opened.released, opened.name
    _demand_tables(found)
    weights, notes = released_weights(found)
    tables = [part for part in weights if part.group == "table"]
    wrong = [part.part for part in tables if not part.rows]
    if wrong or not tables:
        what = f"{wrong[0]} is not a table of rows" if wrong else "the files hold no table"
        raise CorruptFileError(
            f"{name}: its config states a memory, and {what}.",
            f"Check it: engram verify {name}",
            path=name,
        )
    return Inspection(
        kind="released",
        layout=found.family.layout,
        title=found.family.title,
        config=_as_stored(found.memory.config, tables),
        hash_rows=found.memory.hash_rows,
        weights=tuple(weights),
        notes=(*found.memory.notes, *notes),
    )


def _as_stored(config: EngramConfig | None, tables: list[Weights]) -> EngramConfig | None:
    """Return a config with the dtype of the stored tables, where they have one and it is known."""
    dtypes = {part.dtype for part in tables}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return replace(config, table_dtype=dtype) if config and dtype in TABLE_DTYPES else config


def _demand_tables(found: Released) -> None:
    """Refuse a checkpoint whose tables are not whole, or cannot be counted.

    Raises:
        MissingFileError: A piece of a table is not in the files.
        LayoutError: A table is packed in a way that is not read here.
    """
    name, missing = found.stored.name, found.missing_tables()
    if missing:
        raise MissingFileError(
            f"{name} lacks {named(missing)}: its tables are not whole.",
            "Download or copy the checkpoint again; finished files are kept.",
            missing=missing,
        )
    for tensor, slot in found.slots.items():
        if slot.role == "table" and found.stored.tensors[tensor].dtype == MLX_TAG:
            raise LayoutError(
                f"{name}: {tensor} {MLX_PACKED}.",
                "Give the release that it was converted from, or an MLX conversion in bfloat16.",
                tensor=tensor,
            )


def _inspect_ours(opened: Checkpoint, settings: dict[str, Any]) -> Inspection:
    """Count a memory that attach wrote."""
    name, config, hash_rows = opened.name, *_stated(opened.name, settings)
    if config.tokenizer is not None:
        own = name if config.tokenizer == OWN else read_from(config.tokenizer, Path(name))
        config = replace(config, tokenizer=own)
    of_layer: dict[int | None, dict[str, TensorInfo]] = {layer_id: {} for layer_id in hash_rows}
    for tensor, info in opened.tensors.items():
        layer_id, part = layer_and_part(tensor) or (None, "")
        if part:
            of_layer.setdefault(layer_id, {})[part] = info
    base = list(opened.base_tensors.values())
    weights = [
        part
        for layer_id, found in of_layer.items()
        for part in _layer_weights(name, config, layer_id, found, opened.files.lengths_known)
    ]
    notes = ["an adapter: its base model is not counted"] if opened.adapter else []
    if base:
        counted, more = _base_weights(base, opened.model_config)
        weights.append(counted)
        notes += more
    return Inspection(
        kind=opened.kind,
        layout=config.layout,
        title=config.rules.title,
        config=config,
        hash_rows=hash_rows,
        weights=tuple(weights),
        notes=tuple(notes),
    )


def _base_weights(
    tensors: list[TensorInfo], model_config: Mapping[str, Any]
) -> tuple[Weights, list[str]]:
    """Count a base, and say how that was done where it is quantised."""
    stored, method = _weights("base", "base", tensors), quantisation_method(model_config)
    if method is None:
        return stored, []
    params = base_params(model_config)
    if params is None:
        kept = "those stored as floats; packed ones are left out"
        return stored, [f"the base is quantised with {method}, and its parameters are {kept}"]
    note = f"the base is quantised with {method}; its parameters follow from its config"
    return replace(stored, params=params), [note]


def _stated(name: str, settings: Any) -> tuple[EngramConfig, dict[int | None, int]]:
    check_shape(settings, _SETTINGS, f"The key engram of {name}'s config")
    config = EngramConfig.from_dict(settings["config"])
    hash_rows: dict[int | None, int] = {
        layer["layer_id"]: sum(map(sum, layer["primes"]))
        for layer in settings["addresses"]["layers"]
    }
    return config, hash_rows


def _layer_weights(
    source: str,
    config: EngramConfig,
    layer_id: int | None,
    tensors: Mapping[str, TensorInfo],
    located: bool,
) -> list[Weights]:
    """Sort one layer's tensors: the layout's own names, integer constants, and the table."""
    dense: dict[str, list[TensorInfo]] = {}
    names = config.rules.dense_shapes(config)
    constants, tables, scales = [], [], []
    for name, info in tensors.items():
        if name in names:
            dense.setdefault(name.split(".")[0], []).append(info)
        elif name == SCALE:
            scales.append(info)
        elif name == TABLE:
            tables.append(info)
        elif info.dtype.startswith(("I", "U", "BOOL")):
            constants.append(info)
        else:
            tables.append(info)
    if len(tables) != 1 or len(tables[0].shape) != 2 or not tables[0].size:
        raise CorruptFileError(
            f"{source}: layer {layer_id} should have one table of rows, the files hold "
            f"{[list(table.shape) for table in tables] or 'none'}.",
            f"Check it: engram verify {source}",
            layer_id=layer_id,
        )
    rows = tables[0].shape[0]
    prefix = f"layers.{layer_id}"
    info = tables[0]
    row = (info.stop - info.start) // rows
    pages = row_pages(row, rows, info.start if located else None)
    for scale in scales:
        row = (scale.stop - scale.start) // rows
        pages = pages + row_pages(row, rows, scale.start if located else None)
    parts = [
        replace(
            _weights(f"{prefix}.table", "table", tables + scales, layer_id),
            params=info.size,
            dtype=_dtype(info.dtype),
            rows=rows,
            reads=config.n_columns,
            pages=pages,
        )
    ]
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
        layer_id=layer_id,
    )


def _dtype(tag: str) -> str | None:
    try:
        return dtype_name(tag)
    except InputError:
        return None

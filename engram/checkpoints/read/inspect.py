"""Contents of a checkpoint, from its configs and safetensors headers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from engram.backbone.facts import base_params, stated_backbone
from engram.backbone.quantisation import quantisation_method
from engram.checkpoints.published.parts import released_weights
from engram.checkpoints.published.recognise import find_family
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import OWN, read_from
from engram.errors import CorruptFileError, MissingFileError
from engram.sizing.pages import row_pages
from engram.sizing.weights import Contents, Group, Weights, base_alone
from engram.storage.dtypes import DTYPES, TABLE_DTYPES
from engram.storage.json_files import COUNT, OBJECT, check_shape
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import NAMED
from engram.tensor_names import SCALE, TABLE, layer_and_part
from engram.units import listed

_SETTINGS = {
    "config": OBJECT,
    "addresses": {"layers": [{"layer_id": COUNT, "primes": [[COUNT]]}]},
}


def inspect_checkpoint(target: str | Path, revision: str | None = None) -> Contents:
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
    """
    opened = open_checkpoint(target, revision)
    if opened.stated is not None:
        opened.files.demand_whole()
        return _inspect_ours(opened)
    if opened.folder == opened.path and find_family(opened.files) is None:
        opened.demand_config()  # without one, that is what is wrong
        if opened.tensors and (backbone := stated_backbone(opened.model_config, opened.name)):
            opened.files.demand_whole()
            base, base_notes = _base(opened, opened.tensors)
            return replace(base_alone(backbone, base), notes=base_notes)
    found, name = opened.released, opened.name
    keys = [key for key in found.expected if key.name == TABLE]
    missing = [piece for key in keys for piece in found.missing(key)]
    if missing and any(map(found.names, keys)):
        raise MissingFileError(
            f"{name} lacks {listed(missing, NAMED)}: its tables are not whole.",
            "Download or copy the checkpoint again; finished files are kept.",
            missing=missing,
        )
    weights, notes = released_weights(found)
    tables = [part for part in weights if part.group == "table"]
    wrong = [f"{part.part} is not a table of rows" for part in tables if not part.rows]
    if wrong or not tables:
        what = wrong[0] if wrong else "the files hold no table"
        raise CorruptFileError(
            f"{name}: its config states a memory, and {what}.",
            f"Check it: engram verify {name}",
            path=name,
        )
    config = found.config
    dtypes = {part.dtype for part in tables}
    if config and len(dtypes) == 1 and dtypes <= set(TABLE_DTYPES):
        config = replace(config, table_dtype=dtypes.pop())
    return Contents(
        kind="released",
        layout=found.family.name,
        title=found.title,
        config=config,
        hash_rows=found.hash_rows,
        weights=tuple(weights),
        notes=(found.note, *notes),
    )


def _inspect_ours(opened: Checkpoint) -> Contents:
    """Count a memory that attach wrote."""
    check_shape(opened.stated, _SETTINGS, f"The key engram of {opened.name}'s config")
    settings: dict[str, Any] = opened.stated or {}
    config = EngramConfig.from_dict(settings["config"])
    if config.tokenizer is not None:
        folder = Path(opened.name)
        own = opened.name if config.tokenizer == OWN else read_from(config.tokenizer, folder)
        config = replace(config, tokenizer=own)
    hash_rows: dict[int | None, int] = {
        layer["layer_id"]: sum(map(sum, layer["primes"]))
        for layer in settings["addresses"]["layers"]
    }
    of_layer: dict[int | None, dict[str, TensorInfo]] = {layer_id: {} for layer_id in hash_rows}
    for tensor, info in opened.tensors.items():
        if place := layer_and_part(tensor):
            of_layer.setdefault(place[0], {})[place[1]] = info
    weights = [
        part for found in of_layer.items() for part in _layer_weights(opened, config, *found)
    ]
    notes: tuple[str, ...] = ()
    if opened.adapter:
        notes = ("an adapter: its base model is not counted",)
    if opened.base_tensors:
        base, base_notes = _base(opened, opened.base_tensors)
        weights.append(base)
        notes += base_notes
    return Contents(
        kind="adapter" if opened.adapter else "attached",
        layout=config.layout,
        title=config.rules.title,
        config=config,
        hash_rows=hash_rows,
        weights=tuple(weights),
        notes=notes,
        backbone=stated_backbone(opened.model_config, opened.name) if opened.base_tensors else None,
    )


def _base(opened: Checkpoint, tensors: Mapping[str, TensorInfo]) -> tuple[Weights, tuple[str, ...]]:
    """Count the weights of a base, which may be packed; and note how."""
    base = _weights("base", "base", list(tensors.values()))
    method = quantisation_method(opened.model_config)
    if not method:
        return base, ()
    params = base_params(opened.model_config)
    if params is None:
        how = ", and its parameters are those stored as floats; packed ones are left out"
    else:
        how = "; its parameters follow from its config"
        base = replace(base, params=params)
    return base, (f"the base is quantised with {method}{how}",)


def _layer_weights(
    opened: Checkpoint,
    config: EngramConfig,
    layer_id: int | None,
    tensors: Mapping[str, TensorInfo],
) -> list[Weights]:
    """Sort one layer's tensors: the layout's own names, integer constants, and the table."""
    names = config.rules.dense_shapes(config.sizes)
    dense: dict[str, list[TensorInfo]] = {}
    constants, tables = [], []
    for name, info in tensors.items():
        if name in names:
            dense.setdefault(name.split(".")[0], []).append(info)
        elif name not in (TABLE, SCALE) and info.dtype.startswith(("I", "U", "BOOL")):
            constants.append(info)
        elif name != SCALE:
            tables.append(info)
    if len(tables) != 1 or len(tables[0].shape) != 2 or not tables[0].size:
        raise CorruptFileError(
            f"{opened.name}: layer {layer_id} should have one table of rows, the files hold "
            f"{[list(table.shape) for table in tables] or 'none'}.",
            f"Check it: engram verify {opened.name}",
            layer_id=layer_id,
        )
    table = tables[0]
    rows = table.shape[0]
    stored = [table, *([tensors[SCALE]] if SCALE in tensors else [])]
    pages = (
        row_pages(
            (info.stop - info.start) // rows,
            rows,
            info.start if opened.folder is not None else None,
        )
        for info in stored
    )
    counted = replace(
        _weights("table", "table", stored),
        params=table.size,
        dtype=DTYPES[table.dtype].name,
        rows=rows,
        reads=config.n_columns,
        pages=reduce(add, pages),
    )
    parts = [counted, *(_weights(part, "dense", found) for part, found in dense.items())]
    if constants:
        parts.append(_weights("constants", "constants", constants))
    return [
        replace(part, part=f"layers.{layer_id}.{part.part}", layer_id=layer_id) for part in parts
    ]


def _weights(part: str, group: Group, tensors: Sequence[TensorInfo]) -> Weights:
    values = [info for info in tensors if info.dtype.startswith(("F", "BF"))]
    dtypes = {DTYPES[info.dtype].name for info in values}
    return Weights(
        part=part,
        group=group,
        params=sum(info.size for info in values),
        size_bytes=sum(info.stop - info.start for info in tensors),
        dtype=dtypes.pop() if len(dtypes) == 1 else None,
        kind="exact",
    )

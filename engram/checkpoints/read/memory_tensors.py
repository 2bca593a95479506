"""Tensors that a memory consists of: shapes by part, names in a checkpoint, places in its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.checkpoints.published.stored import Stored
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import MissingFileError
from engram.sizing.weights import dense_dtype
from engram.storage.dtypes import TABLE_DTYPES, scales_per_row
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses


def parameter_shapes(config: EngramConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters under our names, its table of so many rows last."""
    return {**config.rules.dense_shapes(config), TABLE: (rows, config.row_width)}


def expected_tensors(
    config: EngramConfig, addresses: Addresses, layers_path: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name every tensor that a memory has in a checkpoint.

    Args:
        config: The memory.
        addresses: Its constants.
        layers_path: Dotted name of the base's list of layers, such as ``model.layers``.

    Returns:
        Dtype tag (as safetensors names it) and shape by name; parameters have the tag of the
        config's table_dtype, and what lies around quantised tables that of `dense_dtype`.
    """
    dtype = config.stored_dtype().name
    form, tag = TABLE_DTYPES[dtype], TABLE_DTYPES[dense_dtype(dtype)].tag
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in addresses.layers:
        prefix = tensor_name(layers_path, layer.layer_id, "")
        if layer is addresses.layers[0] and addresses.map_sha256 is not None:
            found[prefix + TOKEN_MAP] = ("I32", (addresses.raw_vocab_size,))
        found[prefix + OFFSETS] = ("I64", (addresses.n_columns,))
        for part, shape in parameter_shapes(config, layer.stored_rows).items():
            found[prefix + part] = (form.tag if part == TABLE else tag, shape)
        if form.scale_tag:
            scale_shape = (layer.stored_rows, scales_per_row(config.row_width, dtype))
            found[prefix + SCALE] = (form.scale_tag, scale_shape)
    return found


def attached_layers(
    files: Stored, config: EngramConfig, addresses: Addresses, layers_path: str
) -> dict[int, dict[str, StoredTensor]]:
    """Find the parameters of a memory that was attached, by layer and part.

    Args:
        files: The weight files.
        config: The memory.
        addresses: Its constants.
        layers_path: Dotted name of the model's list of layers.

    Raises:
        MissingFileError: One is not in the files.
        MismatchError: One has another shape than the config gives, or scales that do not fit.
        LayoutError: One is stored in a format that is not read.
    """
    layers = {}
    for layer in addresses.layers:
        shapes = parameter_shapes(config, layer.stored_rows)
        names = {part: tensor_name(layers_path, layer.layer_id, part) for part in (*shapes, SCALE)}
        found = {
            part: [files.tensors[name]] for part, name in names.items() if name in files.tensors
        }
        missing = [names[part] for part in shapes if part not in found]
        if missing:
            raise MissingFileError(
                f"{files.name} lacks {missing[0]}.",
                f"Check it: engram verify {files.name}",
                tensors=missing,
            )
        layers[layer.layer_id] = {
            part: stored_tensor(
                names[part], shape, found[part], found.get(SCALE, []) if part == TABLE else []
            )
            for part, shape in shapes.items()
        }
    return layers

"""Parameters of a memory that was attached: where each is in the files, by layer and part."""

from __future__ import annotations

from engram.addressing.addresses import Addresses
from engram.checkpoints.published.stored import Stored
from engram.checkpoints.read.memory_shapes import parameter_shapes
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import MissingFileError
from engram.tensor_names import SCALE, TABLE, tensor_name


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

"""Parameters of a memory that was attached: where each is in the files, by layer and part."""

from __future__ import annotations

from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.memory_shapes import parameter_shapes
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.errors import MissingFileError
from engram.tensor_names import SCALE, TABLE


def attached_layers(memory: Checkpoint) -> dict[int, dict[str, StoredTensor]]:
    """Find the parameters of a memory that was attached; see `Checkpoint.layers`."""
    memory.demand_settings()
    memory.files.demand_whole()
    layers = {}
    for layer in memory.addresses.layers:
        shapes = parameter_shapes(memory.config, layer.stored_rows)
        names = {part: memory.name_of(layer.layer_id, part) for part in (*shapes, SCALE)}
        found = {
            part: [memory.tensors[name]] for part, name in names.items() if name in memory.tensors
        }
        missing = [names[part] for part in shapes if part not in found]
        if missing:
            raise MissingFileError(
                f"{memory.name} lacks {missing[0]}.",
                f"Check it: engram verify {memory.name}",
                tensors=missing,
            )
        layers[layer.layer_id] = {
            part: stored_tensor(
                names[part], shape, found[part], found.get(SCALE, []) if part == TABLE else []
            )
            for part, shape in shapes.items()
        }
    return layers

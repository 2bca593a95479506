"""Names of a memory's tensors in a checkpoint: ``<layers_path>.<layer_id>.engram.<part>``."""

import re

# Parts beside those that the layout names.
TABLE = "multi_head_embedding.embedding.weight"
SCALE = "multi_head_embedding.embedding.scale"
OFFSETS = "multi_head_embedding.offsets"
TOKEN_MAP = "token_map"

_MODULE = "engram"
_NAME = re.compile(rf"(?:^|\.)(\d{{1,9}})\.{_MODULE}\.(.+)$")


def module_name(layers_path: str, layer_id: int) -> str:
    """Name the module that holds a layer's memory.

    Args:
        layers_path: Dotted name of the base's list of layers, such as ``model.layers``.
        layer_id: The layer.
    """
    return f"{layers_path}.{layer_id}.{_MODULE}"


def tensor_name(layers_path: str, layer_id: int, part: str) -> str:
    """Name a tensor of a memory; see `module_name`."""
    return f"{module_name(layers_path, layer_id)}.{part}"


def is_memory(name: str) -> bool:
    """Whether a tensor belongs to a memory, and not to its base."""
    return f".{_MODULE}." in name


def layer_and_part(name: str) -> tuple[int, str] | None:
    """Take the name of a memory's tensor apart; None for a tensor of the base."""
    match = _NAME.search(name)
    return None if match is None else (int(match[1]), match[2])

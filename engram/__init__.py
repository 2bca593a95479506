"""Engram memories for language models: sized, addressed, built, attached, checked and reported.

The names below are imported when they are first used, so that `import engram` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses
    from engram.addressing.hashing import Hasher
    from engram.addressing.tokenizer import EngramTokenizer
    from engram.backbone import Backbone, load_backbone
    from engram.checkpoints.attach.attach import attach
    from engram.checkpoints.read.load_checkpoint import load
    from engram.config.engram_config import EngramConfig
    from engram.config.templates import load_config
    from engram.corpus.hash.hashed_dataset import HashedDataset
    from engram.errors import EngramError
    from engram.nn import EngramModule, MultiHeadEmbedding, OffloadEmbedding
    from engram.sizing.size import size
    from engram.sizing.size_options import SizeOptions

__version__ = "0.1.0"

# By module: its public names.
_NAMES = {
    "engram.addressing.addresses": ("Addresses",),
    "engram.addressing.hashing": ("Hasher",),
    "engram.addressing.tokenizer": ("EngramTokenizer",),
    "engram.backbone": ("Backbone", "load_backbone"),
    "engram.checkpoints.attach.attach": ("attach",),
    "engram.checkpoints.read.load_checkpoint": ("load",),
    "engram.config.engram_config": ("EngramConfig",),
    "engram.config.templates": ("load_config",),
    "engram.corpus.hash.hashed_dataset": ("HashedDataset",),
    "engram.errors": ("EngramError",),
    "engram.nn": ("EngramModule", "MultiHeadEmbedding", "OffloadEmbedding"),
    "engram.sizing.size": ("size",),
    "engram.sizing.size_options": ("SizeOptions",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Addresses",
    "Backbone",
    "EngramConfig",
    "EngramError",
    "EngramModule",
    "EngramTokenizer",
    "HashedDataset",
    "Hasher",
    "MultiHeadEmbedding",
    "OffloadEmbedding",
    "SizeOptions",
    "attach",
    "load",
    "load_backbone",
    "load_config",
    "size",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

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

__version__ = "0.1.0"

_HOMES = {
    "Addresses": "engram.addressing.addresses",
    "Backbone": "engram.backbone",
    "EngramConfig": "engram.config.engram_config",
    "EngramError": "engram.errors",
    "EngramModule": "engram.nn",
    "EngramTokenizer": "engram.addressing.tokenizer",
    "HashedDataset": "engram.corpus.hash.hashed_dataset",
    "Hasher": "engram.addressing.hashing",
    "MultiHeadEmbedding": "engram.nn",
    "OffloadEmbedding": "engram.nn",
    "attach": "engram.checkpoints.attach.attach",
    "load": "engram.checkpoints.read.load_checkpoint",
    "load_backbone": "engram.backbone",
    "load_config": "engram.config.templates",
}

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
    "attach",
    "load",
    "load_backbone",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Training of memories: an optimiser of rows, `train`, controls, and losses by document.

The names are imported when they are used, since most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.training.control_names import CONTROLS
    from engram.training.controls import Control, apply_control, permute_rows
    from engram.training.dense_control import load_control
    from engram.training.document_loss import (
        Difference,
        DocumentLosses,
        document_losses,
        paired_difference,
    )
    from engram.training.documents import TrainingDocuments
    from engram.training.memory_optimizer import MemoryOptimizer, freeze_backbone, optimizer_for
    from engram.training.new_base import NewBase, read_new_base, scale_note, write_new_base
    from engram.training.parameter_trade import equal_params
    from engram.training.session import Listeners
    from engram.training.shards import shard_tables, table_parameters
    from engram.training.train_memory import train
    from engram.training.train_options import TrainOptions
    from engram.training.trained import Trained

# By module: its public names.
_NAMES = {
    "control_names": ("CONTROLS",),
    "controls": ("Control", "apply_control", "permute_rows"),
    "dense_control": ("load_control",),
    "document_loss": ("Difference", "DocumentLosses", "document_losses", "paired_difference"),
    "documents": ("TrainingDocuments",),
    "memory_optimizer": ("MemoryOptimizer", "freeze_backbone", "optimizer_for"),
    "new_base": ("NewBase", "read_new_base", "scale_note", "write_new_base"),
    "parameter_trade": ("equal_params",),
    "session": ("Listeners",),
    "shards": ("shard_tables", "table_parameters"),
    "train_memory": ("train",),
    "train_options": ("TrainOptions",),
    "trained": ("Trained",),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [
    "CONTROLS",
    "Control",
    "Difference",
    "DocumentLosses",
    "Listeners",
    "MemoryOptimizer",
    "NewBase",
    "TrainOptions",
    "Trained",
    "TrainingDocuments",
    "apply_control",
    "document_losses",
    "equal_params",
    "freeze_backbone",
    "load_control",
    "optimizer_for",
    "paired_difference",
    "permute_rows",
    "read_new_base",
    "scale_note",
    "shard_tables",
    "table_parameters",
    "train",
    "write_new_base",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Training of memories: an optimiser of rows, `train`, controls, and losses by document.

The names are imported when they are used, since most of them need torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Difference": "document_loss",
    "DocumentLosses": "document_loss",
    "Listeners": "session",
    "TrainOptions": "train_options",
    "Trained": "trained",
    "TrainingDocuments": "documents",
    "document_losses": "document_loss",
    "paired_difference": "document_loss",
    "shard_tables": "shards",
    "table_parameters": "shards",
    "train": "train_memory",
    "CONTROLS": "control_names",
    "Control": "controls",
    "MemoryOptimizer": "memory_optimizer",
    "apply_control": "controls",
    "equal_params": "parameter_trade",
    "freeze_backbone": "memory_optimizer",
    "load_control": "dense_control",
    "optimizer_for": "memory_optimizer",
    "permute_rows": "controls",
    "read_new_base": "new_base",
    "scale_note": "new_base",
    "write_new_base": "new_base",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

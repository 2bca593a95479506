"""Evaluation of memories: losses on, off and beside controls; gates by token; depth.

The names are imported when they are used, since most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.evaluation.eval_options import EvalOptions
    from engram.evaluation.evaluate_model import evaluate
    from engram.evaluation.evaluation import Evaluation
    from engram.evaluation.memory_watch import MemoryWatch, Reading
    from engram.evaluation.open_models import OpenModel, open_compared, open_model
    from engram.evaluation.switched_off import memory_off

# By module: its public names.
_NAMES = {
    "eval_options": ("EvalOptions",),
    "evaluate_model": ("evaluate",),
    "evaluation": ("Evaluation",),
    "memory_watch": ("MemoryWatch", "Reading"),
    "open_models": ("OpenModel", "open_compared", "open_model"),
    "switched_off": ("memory_off",),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [
    "EvalOptions",
    "Evaluation",
    "MemoryWatch",
    "OpenModel",
    "Reading",
    "evaluate",
    "memory_off",
    "open_compared",
    "open_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

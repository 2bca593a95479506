"""Evaluation of memories: losses on, off and beside controls; gates by token; depth.

The names are imported when they are used, since most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.evaluation.depth_options import DepthOptions
    from engram.evaluation.depth_result import Depth, LensDifference
    from engram.evaluation.eval_options import EvalOptions
    from engram.evaluation.evaluate_model import evaluate
    from engram.evaluation.evaluation import Evaluation
    from engram.evaluation.gate_options import GateOptions
    from engram.evaluation.gate_reading import GateReading, read_gates
    from engram.evaluation.layer_depth import measure_depth
    from engram.evaluation.memory_watch import MemoryWatch, Reading
    from engram.evaluation.open_models import OpenModel, open_compared, open_model
    from engram.evaluation.switched_off import memory_off

# By module: its public names.
_NAMES = {
    "depth_options": ("DepthOptions",),
    "depth_result": ("Depth", "LensDifference"),
    "eval_options": ("EvalOptions",),
    "evaluate_model": ("evaluate",),
    "evaluation": ("Evaluation",),
    "gate_options": ("GateOptions",),
    "gate_reading": ("GateReading", "read_gates"),
    "layer_depth": ("measure_depth",),
    "memory_watch": ("MemoryWatch", "Reading"),
    "open_models": ("OpenModel", "open_compared", "open_model"),
    "switched_off": ("memory_off",),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [
    "Depth",
    "DepthOptions",
    "EvalOptions",
    "Evaluation",
    "GateOptions",
    "GateReading",
    "LensDifference",
    "MemoryWatch",
    "OpenModel",
    "Reading",
    "evaluate",
    "measure_depth",
    "memory_off",
    "open_compared",
    "open_model",
    "read_gates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

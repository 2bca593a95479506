"""Pictures and pages of results: functions that draw what a command's `--json` prints.

The names are imported when they are used; matplotlib, of the extra ``pictures``, when something is
drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.pictures.allocation_plot import plot_allocation
    from engram.pictures.depth_plot import plot_depth
    from engram.pictures.eval_page import eval_html
    from engram.pictures.gate_page import gates_html
    from engram.pictures.gates_plot import plot_gates
    from engram.pictures.page import write_page
    from engram.pictures.report_page import report_html
    from engram.pictures.report_plot import plot_report
    from engram.pictures.size_plot import plot_size
    from engram.pictures.stats_plot import plot_statistics
    from engram.pictures.style import save_figure
    from engram.pictures.training_plot import plot_training

# By module: its public names.
_NAMES = {
    "allocation_plot": ("plot_allocation",),
    "depth_plot": ("plot_depth",),
    "eval_page": ("eval_html",),
    "gate_page": ("gates_html",),
    "gates_plot": ("plot_gates",),
    "page": ("write_page",),
    "report_page": ("report_html",),
    "report_plot": ("plot_report",),
    "size_plot": ("plot_size",),
    "stats_plot": ("plot_statistics",),
    "style": ("save_figure",),
    "training_plot": ("plot_training",),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [
    "eval_html",
    "gates_html",
    "plot_allocation",
    "plot_depth",
    "plot_gates",
    "plot_report",
    "plot_size",
    "plot_statistics",
    "plot_training",
    "report_html",
    "save_figure",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""The published families of Engram memories: one file each for its rules, defaults and names."""

from engram.errors import LayoutError
from engram.layouts.base import Layout
from engram.layouts.deepseek_v41 import DEEPSEEK_V41
from engram.layouts.demo import DEMO
from engram.layouts.qwen_ple import QWEN_PLE

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (DEMO, DEEPSEEK_V41, QWEN_PLE)}
*_first, _last = LAYOUTS
LAYOUT_NAMES = f"{', '.join(_first)} or {_last}"

__all__ = ["DEEPSEEK_V41", "DEMO", "LAYOUTS", "LAYOUT_NAMES", "QWEN_PLE", "Layout", "get_layout"]


def get_layout(name: str) -> Layout:
    """Return the layout of that name.

    Raises:
        LayoutError: There is no such layout.
    """
    if name not in LAYOUTS:
        raise LayoutError(f"Unknown layout {name!r}.", f"One of {', '.join(LAYOUTS)}.", layout=name)
    return LAYOUTS[name]

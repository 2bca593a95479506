"""Renames the tensors of a published module in a state dict that is about to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rename(
    state: dict[str, Any], prefix: str, translate: Callable[[str], tuple[str, int | None]]
) -> dict[str, dict[int, str]]:
    """Give tensors our names, in place; parts of tensors are left for the caller to join.

    Args:
        state: The state dict of a module or of the model around it.
        prefix: What names of this module start with.
        translate: A layout's `from_reference_name`.

    Returns:
        Names in `state` of the tensors that are in parts: part number to name, by our name without
        the prefix.
    """
    parts: dict[str, dict[int, str]] = {}
    for name in [name for name in state if name.startswith(prefix)]:
        ours, part = translate(name.removeprefix(prefix))
        if part is not None:
            parts.setdefault(ours, {})[part] = name
        elif prefix + ours != name:
            state[prefix + ours] = state.pop(name)
    return parts

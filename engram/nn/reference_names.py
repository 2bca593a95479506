"""Renames the tensors of a published module in a state dict before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rename(
    state: dict[str, Any], prefix: str, translate: Callable[[str], tuple[str, int | None]]
) -> dict[str, dict[int, str]]:
    """Rename tensors to the toolkit's names, in place; the caller joins tensors that come in parts.

    Args:
        state: The state dict of a module or of the model around it.
        prefix: Prefix of this module's names.
        translate: A layout's `from_reference_name`.

    Returns:
        The names in `state` of tensors in parts: by the toolkit's name without the prefix, from
        part number to name.
    """
    parts: dict[str, dict[int, str]] = {}
    for name in [name for name in state if name.startswith(prefix)]:
        ours, part = translate(name.removeprefix(prefix))
        if part is not None:
            parts.setdefault(ours, {})[part] = name
        elif prefix + ours != name:
            state[prefix + ours] = state.pop(name)
    return parts

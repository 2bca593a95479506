"""Released checkpoints with a memory: recognised by config and tensor names, nothing loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from engram.backbone.claims import text_part
from engram.checkpoints.published import gemma, longcat
from engram.checkpoints.published.family import Released
from engram.checkpoints.published.layout_family import describe
from engram.errors import InputError
from engram.layouts import LAYOUTS
from engram.layouts.base import Naming
from engram.storage.stored import Stored

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def families() -> dict[Naming, Callable[[Stored], Released]]:
    """Tell what files should hold, by family: our layouts, and two kinds that we do not run."""
    return {
        **{layout: partial(describe, layout) for layout in LAYOUTS.values()},
        longcat.FAMILY: longcat.describe,
        gemma.FAMILY: gemma.describe,
    }


def find_family(stored: Stored) -> Naming | None:
    """Find the family of a checkpoint: by its config, else by the names of its tensors."""
    settings, known = text_part(stored.config), families()
    stating = (family for family in known if family.states(settings))
    marked = (family for family in known if any(map(family.marks, stored.tensors)))
    return next(stating, None) or next(marked, None)


def is_hub_id(target: str) -> bool:
    """Whether a text reads as ``organisation/name`` on the hub."""
    return _HUB_ID.fullmatch(target) is not None and not target.endswith((".json", ".yaml", ".yml"))


def recognise(stored: Stored) -> Released:
    """Say what a checkpoint is and what it should hold.

    Raises:
        InputError: It is of no known family.
        ConfigError: Its config lacks what the memory follows from.
        CorruptFileError: A state dict without a config lacks what would describe it.
    """
    family = find_family(stored)
    if family is None:
        raise InputError(
            f"{stored.name} has no memory: its config.json lacks the key engram, and its tensors "
            "are of no known family.",
            f"Attach one: engram attach {stored.name} -c CONFIG -o FOLDER",
            folder=stored.name,
        )
    return families()[family](stored)

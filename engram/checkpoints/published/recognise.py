"""Released checkpoints with a memory: recognised by config and tensor names, nothing loaded."""

from __future__ import annotations

import re

from engram.checkpoints.published import gemma, longcat
from engram.checkpoints.published.family import Family, Released, text_part
from engram.checkpoints.published.layout_family import layout_family
from engram.errors import InputError
from engram.layouts import LAYOUTS
from engram.storage.stored import Stored

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

__all__ = [
    "Family",
    "Released",
    "Stored",
    "families",
    "find_family",
    "is_hub_id",
    "no_memory",
    "recognise",
]


def families() -> tuple[Family, ...]:
    """The families: our layouts, and two kinds of memory that we do not run."""
    return (*map(layout_family, LAYOUTS.values()), longcat.FAMILY, gemma.FAMILY)


def find_family(stored: Stored) -> Family | None:
    """Find the family of a checkpoint: by its config, else by the names of its tensors."""
    settings, known = text_part(stored.config), families()
    stating = (family for family in known if family.naming.states(settings))
    marked = (family for family in known if any(map(family.naming.marks, stored.tensors)))
    return next(stating, None) or next(marked, None)


def is_hub_id(target: str) -> bool:
    """Whether a text reads as ``organisation/name`` on the hub."""
    return _HUB_ID.fullmatch(target) is not None and not target.endswith((".json", ".yaml", ".yml"))


def recognise(stored: Stored) -> Released | None:
    """Say what a checkpoint is and what it should hold.

    Returns:
        The checkpoint; None when it is of no known family.

    Raises:
        ConfigError: Its config lacks what the memory follows from.
        CorruptFileError: A state dict without a config lacks what would describe it.
    """
    family = find_family(stored)
    if family is None:
        return None
    slots = {
        name: slot for name in stored.tensors if (slot := family.naming.read(name)) is not None
    }
    return Released(family, stored, family.describe(stored), slots)


def no_memory(stored: Stored) -> InputError:
    """The error for a checkpoint without a memory."""
    return InputError(
        f"{stored.name} has no memory: its config.json lacks the key engram, and its tensors are "
        "of no known family.",
        f"Attach one: engram attach {stored.name} -c CONFIG -o FOLDER",
        folder=stored.name,
    )

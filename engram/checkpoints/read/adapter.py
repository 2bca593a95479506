"""Reads what an adapter says about itself: a memory in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.checkpoints.read.attached_files import ADAPTER_FILE
from engram.errors import MissingFileError
from engram.storage.json_files import COPY_AGAIN, OBJECT, TEXT, Maybe, read_json

_BASE = {"name": TEXT, "tensors_sha256": TEXT, "hub_id": Maybe(TEXT), "revision": Maybe(TEXT)}
_SHAPE = {"base": _BASE, "model_config": OBJECT}


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read what an adapter says about itself.

    Raises:
        MissingFileError: The folder is not an adapter.
        CorruptFileError: Its settings are not what attaching writes.
    """
    path = folder / ADAPTER_FILE
    demand_file(path)
    values: dict[str, Any] = read_json(path, _SHAPE, hint=COPY_AGAIN)
    return values


def demand_file(path: Path) -> None:
    """Refuse an adapter that lacks a file.

    Raises:
        MissingFileError: It is not there.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{path} is not there: {path.parent} is not an adapter.",
            "Make one: engram attach MODEL -c CONFIG -o FOLDER --adapter",
            path=str(path),
        )

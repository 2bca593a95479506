"""Gives the base of an attached checkpoint back, byte for byte."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.checkpoints.attach.apart import demand_apart
from engram.checkpoints.attach.attach import place_file
from engram.checkpoints.read.attached_files import KEPT_FOLDER
from engram.checkpoints.read.digests import demand_unchanged, read_digests
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import LayoutError, MissingFileError
from engram.storage.folders import new_folder


@dataclass(frozen=True)
class Detached:
    """Result of `detach`.

    Attributes:
        output: The base's folder.
        files: Names of the files written.
    """

    output: str
    files: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram detach --json`` prints."""
        return {"schema": "engram.detach/1", **vars(self)}


def detach(folder: str | Path, output: str | Path, *, link: bool = False) -> Detached:
    """Write the base checkpoint that a memory was attached to.

    Args:
        folder: A folder that `attach` wrote.
        output: The folder to appear.
        link: Hard-link the weight files instead of copying them.

    Returns:
        The folder and its files; `to_dict()` is what ``engram detach --json`` prints.

    Raises:
        LayoutError: The folder has no memory, is an adapter, or was saved anew: its base may have
            been trained.
        CorruptFileError: What it says about its base is damaged, or leads out of it; or a file is
            not what it was when attach wrote it.
        MissingFileError: There is no such folder, or a file of the base is not in it.
        InputError: The output is there already, or not apart from the folder.

    Examples:
        >>> import engram
        >>> "config.json" in engram.detach("attached", "base-again").files
        True
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        hint = "Give one that `engram attach` wrote."
        if not folder.exists():
            raise MissingFileError.at(folder, hint, folder=str(folder))
        raise MissingFileError(f"{folder} is not a folder.", hint, folder=str(folder))
    demand_apart(output, folder)
    opened = open_checkpoint(folder)
    if opened.adapter:
        base_name = opened.adapter["base"]["name"]
        raise LayoutError(
            f"{folder} is an adapter: a memory alone, beside which {base_name} was left as it is.",
            f"There is nothing to detach: use {base_name}, and the adapter where it is wanted.",
            folder=str(folder),
            base=base_name,
        )
    opened.demand_config()
    if opened.stated is None:
        raise LayoutError(
            f"{folder} has no memory that `engram attach` wrote.",
            "Without one it is as it was: there is nothing to detach.",
            folder=str(folder),
        )
    base, kept = opened.base, folder / KEPT_FOLDER
    shards = base.shards
    if (
        shards is None
        or not kept.is_dir()
        or not all((folder / new).is_file() for new in shards.values())
    ):
        raise LayoutError(
            f"{folder} was saved anew after attaching: the base's own files are not in it, and its "
            "weights may have been trained.",
            "Detach the folder that `engram attach` wrote.",
            folder=str(folder),
        )
    others = {name: folder / name for name in base.sidecars}
    others |= {name: kept / name for name in base.replaced}
    missing = [str(path) for path in others.values() if not path.is_file()]
    if missing:
        raise MissingFileError(
            f"{missing[0]} is not there, and the base had it.",
            "Copy the folder again from where it was made.",
            missing=missing,
        )
    recorded = read_digests(opened)
    demand_unchanged(folder, {**(recorded.small or {}), **(recorded.weights or {})})
    with new_folder(output, lambda _: None, overwrite=False) as part:
        for old, new in shards.items():
            place_file(folder / new, part / old, link)
        for name, path in others.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
    return Detached(str(output), sorted([*shards, *others]))

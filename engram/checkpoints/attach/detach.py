"""Gives the base of an attached checkpoint back, byte for byte."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.checkpoints.attach.folder_plan import place_file
from engram.checkpoints.read.attached_files import KEPT_FOLDER
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import changed_files, read_digests
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import CorruptFileError, LayoutError, MissingFileError
from engram.storage.file_names import refuse_empty
from engram.storage.folders import demand_apart, new_folder


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


@checked()
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
    refuse_empty(folder, "the folder")
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        hint = "Give one that `engram attach` wrote."
        raise MissingFileError(f"{folder} {problem}.", hint, folder=str(folder))
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
    base = opened.base
    if is_saved_anew(opened, folder):
        raise LayoutError(
            f"{folder} was saved anew after attaching: the base's own files are not in it, and its "
            "weights may have been trained.",
            "Detach the folder that `engram attach` wrote.",
            folder=str(folder),
        )
    others = {old: folder / new for old, new in base.small_files.items()}
    if missing := [str(path) for path in others.values() if not path.is_file()]:
        raise MissingFileError(
            f"{missing[0]} is not there, and the base had it.",
            "Copy the folder again from where it was made.",
            missing=missing,
        )
    recorded = read_digests(opened)
    small, weights = recorded.get("small_files") or {}, recorded.get("weight_files") or {}
    changed = changed_files(folder, {**small, **weights})
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise CorruptFileError(
            f"{folder / changed[0]} is not the file that attach wrote: its sha256 differs{more}.",
            "It was damaged or edited since. Restore it, or copy the folder again from where it "
            "was made.",
            files=changed,
        )
    with new_folder(output, lambda _: None, overwrite=False) as part:
        for old, new in base.shards.items():
            place_file(folder / new, part / old, link)
        for name, path in others.items():
            place_file(path, part / name)
    return Detached(str(output), sorted([*base.shards, *others]))


def is_saved_anew(opened: Checkpoint, folder: Path) -> bool:
    """Whether a folder was saved by `save_pretrained`: the base's own files are not in it.

    Args:
        opened: An attached folder.
        folder: Its path.

    Raises:
        CorruptFileError: What it says about its base is damaged.
    """
    shards = opened.base.shards.values()
    kept = (folder / KEPT_FOLDER).is_dir()
    return not shards or not kept or not all((folder / new).is_file() for new in shards)

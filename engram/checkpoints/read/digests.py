"""sha256 of an attached folder's files: recorded by attach, compared by detach and verify."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

from engram.checkpoints.read.attached_files import check_settings
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.storage.file_names import is_inside
from engram.storage.files import sha256_of
from engram.storage.json_files import SHA256, Each, Kind, Maybe

# Key of the memory's settings.
DIGESTS = "sha256"
_FILES = Maybe(Each(SHA256, Kind("the name of a file of the folder", is_inside)))
_SHAPE = {"small_files": _FILES, "weight_files": _FILES}
# Files of a tokenizer that change when tokens are added to it.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)


class Digests(TypedDict, total=False):
    """sha256 of files by their names in the folder.

    Attributes:
        small_files: The base's small files, its replaced ones, and the module beside the weights;
            not there where attach recorded none, or the folder was saved anew since.
        weight_files: Weight files; not there where attach was not asked to record them.
    """

    small_files: Mapping[str, str] | None
    weight_files: Mapping[str, str] | None


def read_digests(memory: Checkpoint) -> Digests:
    """Read the digests that attaching recorded: none of a folder that was saved anew since.

    Args:
        memory: A checkpoint or an adapter that attaching wrote.

    Raises:
        CorruptFileError: They are of another form.
    """
    if not memory.base.shards:
        return {}
    check_settings(memory.stated, {DIGESTS: Maybe(_SHAPE)}, memory.where)
    recorded: Digests | None = (memory.stated or {}).get(DIGESTS)
    return recorded or {}


def without_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings for a folder whose weight files are written anew."""
    stated = settings.get(DIGESTS)
    if not isinstance(stated, dict):
        return settings
    return {**settings, DIGESTS: {key: stated[key] for key in stated if key != "weight_files"}}


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Name the files of a folder that are not what they were when their digests were taken.

    Files that are not there are not among them.
    """
    there = [name for name in recorded if (folder / name).is_file()]
    # Two at a time, the large ones first: one thread digests more slowly than many disks read.
    order = sorted(there, key=lambda name: -(folder / name).stat().st_size)
    with ThreadPoolExecutor(2) as pool:
        digests = dict(
            zip(order, pool.map(lambda name: sha256_of(folder / name), order), strict=True)
        )
    return [name for name in there if digests[name] != recorded[name]]

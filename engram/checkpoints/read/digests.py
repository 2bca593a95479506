"""sha256 of an attached folder's files: recorded by attach, compared by detach and verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.settings import check_settings
from engram.storage.file_names import is_inside
from engram.storage.files import sha256_of
from engram.storage.json_files import SHA256, Each, Kind, Maybe

# Key of the memory's settings, and its two parts.
DIGESTS = "sha256"
_SMALL, _WEIGHTS = "small_files", "weight_files"
_FILES = Maybe(Each(SHA256, Kind("the name of a file of the folder", is_inside)))
_SHAPE = {_SMALL: _FILES, _WEIGHTS: _FILES}
# Files of a tokenizer that change when tokens are added to it.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)


@dataclass(frozen=True)
class Digests:
    """sha256 of files by their names in the folder.

    Attributes:
        small: The base's small files, its replaced ones, and the module beside the weights; None
            where attach recorded none, or the folder was saved anew since.
        weights: Weight files; None where attach was not asked to record them.
    """

    small: Mapping[str, str] | None
    weights: Mapping[str, str] | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `read_digests` reads."""
        parts = {_SMALL: self.small, _WEIGHTS: self.weights}
        return {key: dict(part) for key, part in parts.items() if part is not None}


def read_digests(memory: Checkpoint) -> Digests:
    """Read the digests that attaching recorded: none of a folder that was saved anew since.

    Args:
        memory: A checkpoint or an adapter that attaching wrote.

    Raises:
        CorruptFileError: They are of another form.
    """
    if memory.base.shards is None:
        return Digests(None, None)
    stated = memory.stated or {}
    check_settings(stated, {DIGESTS: Maybe(_SHAPE)}, memory.where)
    parts = [(stated.get(DIGESTS) or {}).get(key) for key in (_SMALL, _WEIGHTS)]
    return Digests(*parts)


def without_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings for a folder whose weight files are written anew."""
    stated = settings.get(DIGESTS)
    if not isinstance(stated, dict):
        return settings
    return {**settings, DIGESTS: {key: stated[key] for key in stated if key != _WEIGHTS}}


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Name the files of a folder that are not what they were when their digests were taken.

    Files that are not there are not among them.
    """
    there = {name: digest for name, digest in recorded.items() if (folder / name).is_file()}
    return [name for name, digest in there.items() if sha256_of(folder / name) != digest]

"""Names the files of a folder that attaching wrote: all that `--overwrite` may ever delete.

A config may have been written by anyone, and a user's files may lie beside it. So what it lists
counts only under names that files of a checkpoint have.
"""

from fnmatch import fnmatchcase
from pathlib import Path

from engram.checkpoints.read.attached_files import (
    ADAPTER_FILE,
    CARD_FILE,
    CONFIG_FILE,
    TRAINING_FILES,
)
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import EngramError
from engram.storage.file_names import is_weight_file
from engram.storage.safetensors_headers import INDEX_FILE, read_weight_map

# The module that `engram.hf.folder_module.remote_module` makes.
REMOTE_MODULE = "modeling_engram"
_SIDECARS = (
    *("license*", "notice*", "use_policy*", "readme*", ".gitattributes"),
    *("*config*.json", "*token*.json", "*vocab*.json", "*vocab*.txt", "merges.txt", "tekken.json"),
    *("chat_template*", "*.jinja", "*.model"),
    *("configuration_*.py", "modeling_*.py", "modular_*.py", "tokenization_*.py"),
    "*processing_*.py",
)


def is_checkpoint_file(name: str) -> bool:
    """Whether a file's name is one that files of a checkpoint have."""
    return is_weight_file(name) or any(fnmatchcase(name.lower(), it) for it in _SIDECARS)


def own_files(folder: Path) -> set[str] | None:
    """Name what attaching wrote right into a folder; None when it is not an attached one.

    A folder below is named when nothing else is in it.
    """
    try:
        shards = read_weight_map(folder / INDEX_FILE).values()
        own = {INDEX_FILE, CARD_FILE, f"{REMOTE_MODULE}.py", *shards}
        own.update(TRAINING_FILES)
        opened = open_checkpoint(folder)
        if opened.adapter:
            return {*own, ADAPTER_FILE}
        opened.demand_config()
        if opened.stated is None:
            return None
        base = opened.base
    except (EngramError, OSError):
        return None
    listed = {
        here
        for name, here in base.small_files.items()
        if name in base.replaced or is_checkpoint_file(name.rpartition("/")[2])
    }
    for top in {name.partition("/")[0] for name in listed}:
        inside = (folder / top).rglob("*")
        if all(path.is_dir() or path.relative_to(folder).as_posix() in listed for path in inside):
            own.add(top)
    return {*own, CONFIG_FILE}

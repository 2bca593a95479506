"""`open_checkpoint`: the one way to open what may hold a memory, here or on the hub."""

from pathlib import Path
from typing import Any

from engram.backbone.find_backbone import read_hub_config
from engram.checkpoints.published.recognise import is_hub_id
from engram.checkpoints.read.attached_files import (
    ADAPTER_FILE,
    CONFIG_FILE,
    CONTROL_FILE,
    check_settings,
    damaged,
)
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.config.engram_config import EngramConfig
from engram.errors import InputError, LayoutError, MissingFileError, UsageError
from engram.storage.file_names import refuse_empty
from engram.storage.gguf import refuse_gguf
from engram.storage.json_files import COPY_AGAIN, OBJECT, TEXT, Maybe, OrNull, read_json
from engram.storage.stored import stored_model_config

# What an adapter says about itself, and about the base that it was made for.
_BASE = {"name": TEXT, "tensors_sha256": TEXT, "hub_id": Maybe(TEXT), "revision": Maybe(TEXT)}
_ADAPTER = {"base": _BASE, "model_config": OBJECT}


def open_checkpoint(
    target: str | Path,
    revision: str | None = None,
    *,
    config: EngramConfig | None = None,
    short_names: bool = False,
) -> Checkpoint:
    """Open what may hold a memory: by its config alone, which is read here and nowhere else.

    Args:
        target: A folder, a lone safetensors file, or ``organisation/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        config: The memory, where the files do not state it: the reference demo's.
        short_names: Names without an organisation may be on the hub, as transformers takes them.

    Raises:
        MissingFileError: It is not there, or cannot be reached.
        InputError: It is a file of another kind.
        LayoutError: It is a dense control.
        CorruptFileError: Its config is not JSON, or what it says about a memory is damaged.
        UsageError: A config was given, and the files state their own.
    """
    refuse_empty(target, "the checkpoint")
    name, path = str(target), Path(target)
    adapter: dict[str, Any] = {}
    is_name = is_hub_id(name) or (short_names and not name.startswith((".", "/", "~")))
    if is_name and isinstance(target, str) and not path.exists():
        model_config, here = read_hub_config(name, revision), None
    else:
        refuse_gguf(path)
        if not path.exists():
            raise MissingFileError.at(
                path,
                "Check the path; hf download NAME --local-dir FOLDER brings a checkpoint from the "
                "hub.",
                path=str(path),
            )
        if not path.is_dir() and path.suffix != ".safetensors":
            raise InputError(
                f"{path} is not a checkpoint: neither a folder nor a safetensors file.",
                "Give the checkpoint's folder. What a config means, engram report shows.",
                path=str(path),
            )
        if (path / CONTROL_FILE).is_file():
            raise LayoutError(
                f"{path} is a dense control: a feed-forward part to be loaded beside its base, "
                "without a memory.",
                f"Load it in Python: engram.training.load_control({name!r})",
                path=str(path),
            )
        name, here = str(path), path
        if (path / ADAPTER_FILE).is_file():
            adapter = read_json(path / ADAPTER_FILE, _ADAPTER, hint=COPY_AGAIN)
        model_config = adapter["model_config"] if adapter else stored_model_config(path)
    where = f"{name}/{ADAPTER_FILE if adapter else CONFIG_FILE}"
    stated = model_config.get("engram")
    check_settings(stated, OrNull(OBJECT), where)
    if stated is None and adapter:
        raise damaged(where, "model_config.engram is missing")
    if stated is not None and config is not None:
        raise UsageError(f"{name} states its config: leave -c (in Python, config) out.")
    return Checkpoint(name, where, here, revision, model_config, adapter, stated, config)

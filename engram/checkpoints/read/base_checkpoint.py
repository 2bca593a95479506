"""The checkpoint that a memory is attached to: its files, its tensors, and where its layers are."""

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from engram.backbone.facts import base_params
from engram.backbone.float_dtype import float_dtype, unstated_dtype
from engram.backbone.quantisation import stated_quantisation
from engram.checkpoints.read.attached_files import (
    RENAMED_SINGLE_FILE,
    REPLACED,
    BaseFiles,
)
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import LayoutError, MissingFileError
from engram.storage.file_names import is_inside
from engram.storage.safetensors_headers import INDEX_FILE, SINGLE_FILE

# As huggingface_hub lays out its cache.
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([0-9a-f]{40})/?$")
_LORA_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_TEXT_SUFFIXES = {".json", ".jinja", ".txt", ".md", ".py", ".model"}
_WEIGHT_SUFFIXES = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ckpt",
}


@dataclass(frozen=True, kw_only=True)
class BaseCheckpoint(BaseFiles):
    """A Hugging Face folder with safetensors weights, and the names of its files.

    Attributes:
        folder: Where it is.
        name: What people call it: its hub id, or its folder's name.
        config: Its config.json.
        weight_map: File in an attached folder that holds each tensor.
        tensors: Dtype tag and shape of each tensor.
        dtype: Dtype of most of its values, as torch names it; the one that a quantised base
            computes in.
        unstated_dtype: Dtype that transformers finds for it, where its config states none.
        quantisation: Its config's quantisation; None if its weights are not quantised.
        hub_id: Its id on the hub, where it lies in the hub's cache.
        commit: The commit there that it is of.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    weight_map: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    dtype: str
    unstated_dtype: str | None = None
    quantisation: dict[str, Any] | None = None
    hub_id: str | None = None
    commit: str | None = None

    @property
    def kept_files(self) -> dict[str, Path]:
        """Paths of its weight files, by name in an attached folder."""
        return {new: self.folder / old for old, new in self.shards.items()}

    @cached_property
    def params(self) -> int:
        """Number of its values; of a quantised base before it was quantised, where known."""
        before = base_params(self.config) if self.quantisation else None
        return before or sum(prod(shape) for _, shape in self.tensors.values())


def read_base(folder: Path, name: str = "") -> BaseCheckpoint:
    """Read what a checkpoint consists of, from its config, index and headers.

    Args:
        folder: Where it is.
        name: What people call it; its id on the hub, or the folder's name, when empty.

    Raises:
        MissingFileError: No config, no weights, or a shard that the index names is not there.
        CorruptFileError: A file is torn, or the index contradicts the files.
        LayoutError: Weights in a format that is not attached to, a memory that is there already, or
            an adapter of PEFT.
    """
    _refuse_lora(folder)
    opened = open_checkpoint(folder)
    opened.demand_config()
    config, files = opened.model_config, opened.files
    if "engram" in config:
        raise LayoutError(
            f"{folder} has a memory already.",
            "Attach to its base instead.",
            folder=str(folder),
        )
    _demand_weights(folder)
    files.demand_whole()
    weight_files = {
        tensor: info.path.relative_to(folder).as_posix() for tensor, info in files.tensors.items()
    }
    shards = {
        name: RENAMED_SINGLE_FILE if name == SINGLE_FILE else name
        for name in sorted(set(weight_files.values()))
    }
    hub_id, commit = snapshot_of(folder)
    sidecars = [file for file in _small_files(folder) if file not in REPLACED]
    return BaseCheckpoint(
        folder=folder,
        name=name or hub_id or folder.resolve().name,
        config=config,
        shards=shards,
        weight_map={tensor: shards[file] for tensor, file in weight_files.items()},
        tensors={tensor: (info.dtype, info.shape) for tensor, info in files.tensors.items()},
        sidecars=sidecars,
        replaced=[file for file in REPLACED if (folder / file).is_file()],
        unstated_dtype=unstated_dtype(config, files.tensors),
        dtype=float_dtype(config, files.tensors) or "bfloat16",
        quantisation=stated_quantisation(config),
        hub_id=hub_id,
        commit=commit,
    )


def snapshot_of(folder: Path) -> tuple[str | None, str | None]:
    """Return id and commit of a repository in the hub's cache; twice None for other folders."""
    match = _SNAPSHOT.search(folder.absolute().as_posix())
    return (match[1].replace("--", "/"), match[2]) if match else (None, None)


def _refuse_lora(folder: Path) -> None:
    """Refuse a folder with an adapter of PEFT, whose weights transformers loads on top."""
    found = [name for name in _LORA_FILES if (folder / name).is_file()]
    if found:
        raise LayoutError(
            f"{folder} holds an adapter of PEFT, such as a LoRA ({', '.join(found)}), which an "
            "attached checkpoint would lose; it may be all that the folder holds.",
            "Merge it into its base first: PeftModel.from_pretrained(base, adapter)"
            ".merge_and_unload().save_pretrained(FOLDER), then attach to FOLDER; or move it away.",
            folder=str(folder),
            files=found,
        )


def _small_files(folder: Path) -> list[str]:
    """Name everything but weights: files of the folder, and text files below it."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            not path.is_file()
            or path.suffix in _WEIGHT_SUFFIXES
            or name.name.endswith(".index.json")
        ):
            continue
        if not is_inside(name.as_posix()):
            continue  # some systems take no such name, as one with a backslash
        is_hidden = any(part.startswith(".") for part in name.parts)
        if len(name.parts) > 1 and (is_hidden or path.suffix not in _TEXT_SUFFIXES):
            continue
        found.append(name.as_posix())
    return found


def _demand_weights(folder: Path) -> None:
    """Refuse a folder whose weights transformers would not find, or would unpickle."""
    if any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise LayoutError(
            f"{folder} has pickled weights only, which are never read.",
            "Convert them first: load with transformers and save_pretrained, which writes "
            "model.safetensors.",
            folder=str(folder),
        )
    raise MissingFileError(
        f"{folder} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE}.",
        "Give the folder that holds the checkpoint.",
        folder=str(folder),
    )

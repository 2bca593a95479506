"""The checkpoint that a memory is attached to: its files, its tensors, and where its layers are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engram.backbone.float_dtype import count_values, float_dtype, unstated_dtype
from engram.backbone.quantisation import base_params
from engram.errors import CorruptFileError, LayoutError, MissingFileError
from engram.storage.dtypes import DTYPES
from engram.storage.file_names import is_inside
from engram.storage.gguf import refuse_gguf, refuse_gguf_folder
from engram.storage.hub import probe
from engram.storage.json_files import read_json
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    read_header,
    read_weight_map,
)

# A lone weight file gets this name: transformers reads model.safetensors in preference to an index,
# and would drop the memory without a word.
RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"
CARD_FILE = "README.md"
# The base's own versions of files of which an attached folder has another.
KEPT_FOLDER = "engram_base"
CONFIG_FILE = "config.json"
_LORA_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# As huggingface_hub lays out its cache.
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([0-9a-f]{40})/?$")
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


@dataclass(frozen=True)
class BaseCheckpoint:
    """A Hugging Face folder with safetensors weights.

    Attributes:
        folder: Where it is.
        name: What people call it: its hub id, or its folder's name.
        config: Its config.json.
        shards: Its weight files: name here, and name in an attached folder.
        weight_map: File in an attached folder that holds each tensor.
        tensors: Dtype tag and shape of each tensor.
        dtype: Dtype of most of its values, as torch names it; the one that a quantised base
            computes in.
        params: Number of its values; of a quantised base before it was quantised, where known.
        sidecars: Its other files (tokenizer, generation config), by name.
        replaced: Files of which an attached folder has its own version.
        unstated_dtype: Dtype that transformers finds for it, where its config states none.
        hub_id: Its id on the hub, where it lies in the hub's cache.
        commit: The commit there that it is of.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    shards: dict[str, str]
    weight_map: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    dtype: str
    params: int
    sidecars: list[str]
    replaced: list[str]
    unstated_dtype: str | None = None
    hub_id: str | None = None
    commit: str | None = None

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors, without the headers of their files."""
        return sum(prod(shape) * DTYPES[tag].bits // 8 for tag, shape in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum((self.folder / name).stat().st_size for name in self.shards)


def resolve_model(
    model: str | Path, revision: str | None = None, *, trust_remote_code: bool = False
) -> Path:
    """Return the folder of a model: itself, or the hub's in the local cache after a download.

    Args:
        model: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether the model's code is downloaded, too.

    Raises:
        MissingFileError: There is no such folder, and no such model can be had from the hub.
    """
    path = Path(model)
    if path.is_dir():
        return path
    refuse_gguf(path)
    if path.exists() or isinstance(model, Path) or model.startswith((".", "/", "~")):
        raise MissingFileError(
            f"{model} is not a folder with a checkpoint.",
            "Give a Hugging Face folder, or a hub id such as HuggingFaceTB/SmolLM2-135M.",
            model=str(model),
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Pickled weights are never asked for.
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*"]
    wanted += ["*.py"] if trust_remote_code else []
    problem: Exception | None = None
    try:
        problem = probe(model, CONFIG_FILE, revision)
        folder = snapshot_download(
            model, revision=revision, allow_patterns=wanted, local_files_only=problem is not None
        )
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        text = str(problem or error).strip() or type(problem or error).__name__
        reason = text.splitlines()[0]
        raise MissingFileError(
            f"{model} is no folder here, and the hub does not give it: {reason}",
            "Check the name and the connection (HF_TOKEN for gated models), or give a folder.",
            model=model,
        ) from None


def snapshot_of(folder: Path) -> tuple[str | None, str | None]:
    """Return id and commit of a repository in the hub's cache; twice None for other folders."""
    match = _SNAPSHOT.search(folder.absolute().as_posix())
    return (match[1].replace("--", "/"), match[2]) if match else (None, None)


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
    config = read_config(folder)
    if "engram" in config:
        raise LayoutError(
            f"{folder} has a memory already.",
            "Attach to its base instead.",
            folder=str(folder),
        )
    shards, stated = _weight_files(folder)
    weight_map: dict[str, str] = {}
    found: dict[str, TensorInfo] = {}
    for file, renamed in shards.items():
        for tensor, info in read_header(folder / file).items():
            if stated is None or stated.get(tensor) == file:
                weight_map[tensor] = renamed
                found[tensor] = info
    missing = sorted(set(stated or ()) - set(weight_map))
    if missing:
        raise CorruptFileError(
            f"{folder / INDEX_FILE} names {missing[0]}, which is not in the file it names.",
            "Download the checkpoint again.",
            tensors=missing,
        )
    values, (hub_id, commit) = count_values(found), snapshot_of(folder)
    ours = [CONFIG_FILE, CARD_FILE, INDEX_FILE]
    sidecars = [file for file in _small_files(folder) if file not in ours]
    replaced = [file for file in ours if (folder / file).is_file()]
    return BaseCheckpoint(
        folder=folder,
        name=name or hub_id or folder.resolve().name,
        config=config,
        shards=shards,
        weight_map=weight_map,
        tensors={tensor: (info.dtype, info.shape) for tensor, info in found.items()},
        dtype=float_dtype(config, values) or "bfloat16",
        params=base_params(config) or sum(values.values()),
        sidecars=sidecars,
        replaced=replaced,
        unstated_dtype=unstated_dtype(config, found),
        hub_id=hub_id,
        commit=commit,
    )


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
        nested = len(name.parts) > 1
        hidden = nested and any(part.startswith(".") for part in name.parts)
        if not path.is_file() or hidden or path.suffix in _WEIGHT_SUFFIXES:
            continue
        if not is_inside(name.as_posix()):
            continue  # not a name on every system, such as one with a backslash
        if name.name.endswith(".index.json") or (nested and path.suffix not in _TEXT_SUFFIXES):
            continue
        found.append(name.as_posix())
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        MissingFileError: It is not there.
        CorruptFileError: It is not a JSON object.
        InputError: The folder holds GGUF files instead.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        refuse_gguf_folder(folder)
        raise MissingFileError(
            f"{folder} has no {CONFIG_FILE}: it is not a Hugging Face checkpoint.",
            "Give the folder that holds config.json and the weights.",
            path=str(path),
        )
    config: dict[str, Any] = read_json(path)
    return config


def _weight_files(folder: Path) -> tuple[dict[str, str], dict[str, str] | None]:
    """Return the weight files with their new names, and the index's weight map if there is one."""
    if (folder / SINGLE_FILE).is_file():
        return {SINGLE_FILE: RENAMED_SINGLE_FILE}, None
    index = folder / INDEX_FILE
    if index.is_file():
        return _indexed_files(folder, index)
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


def _indexed_files(folder: Path, index: Path) -> tuple[dict[str, str], dict[str, str]]:
    weight_map = read_weight_map(index)
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{folder} lacks {', '.join(missing)}, named by its index.",
            "Download the checkpoint again; finished files are kept.",
            missing=missing,
        )
    return {name: name for name in names}, weight_map


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files that a folder's index names, or of its lone one."""
    shards, _ = _weight_files(folder)
    return sum((folder / name).stat().st_size for name in shards)

"""Finds what is damaged in a folder that transformers could not load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engram.checkpoints.read.attached_files import CONFIG_FILE
from engram.errors import CorruptFileError, InputError
from engram.storage.json_files import COPY_AGAIN, OBJECT, TEXT, Each, Maybe, read_json
from engram.storage.safetensors_headers import INDEX_FILE, SINGLE_FILE, read_folder_headers

GENERATION_FILE = "generation_config.json"
# Files that transformers reads with the weights, and what it takes for granted of them.
_SHAPES = {
    GENERATION_FILE: OBJECT,
    INDEX_FILE: {"metadata": Maybe(OBJECT), "weight_map": Each(TEXT)},
}


def find_damage(folder: Path, config_class: Any, model_class: Any) -> None:
    """Look at the files of a folder one by one; return when each is as it should be.

    Args:
        folder: An attached folder that was not loaded.
        config_class: Its config class.
        model_class: Its model class.

    Raises:
        CorruptFileError: A file is damaged.
        InputError: The path of the folder cannot be opened.
        MissingFileError: A shard is not there.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{folder}: safetensors opens no path that is not UTF-8.",
            "Rename the folder.",
            path=str(folder),
        ) from None
    is_single = (folder / SINGLE_FILE).is_file()
    for name, shape in _SHAPES.items():
        if (folder / name).exists() and not (name == INDEX_FILE and is_single):
            read_json(folder / name, shape, hint=COPY_AGAIN)
    from safetensors import safe_open

    readers: dict[Path, Callable[[], object]] = {
        path: partial(safe_open, path, framework="numpy")
        for path in sorted({info.path for info in (read_folder_headers(folder) or {}).values()})
    }
    if (folder / GENERATION_FILE).is_file():
        from transformers import GenerationConfig

        readers[folder / GENERATION_FILE] = partial(GenerationConfig.from_pretrained, folder)
    readers[folder / CONFIG_FILE] = partial(_build, folder, config_class, model_class)
    for path, read in readers.items():
        try:
            read()
        except Exception as error:
            what = f"{type(error).__name__}: {error}".rstrip(".")
            raise CorruptFileError(
                f"{path} is damaged: {what}.", COPY_AGAIN, path=str(path)
            ) from None


def _build(folder: Path, config_class: Any, model_class: Any) -> None:
    """Build the model of the config alone, without weights and without what the caller asked."""
    import torch

    config = config_class.from_pretrained(folder)
    with torch.device("meta"):
        model_class(config)

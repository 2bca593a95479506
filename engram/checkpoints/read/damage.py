"""Finds what is damaged in a folder that transformers could not load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, InputError
from engram.storage.json_files import COPY_AGAIN, OBJECT, TEXT, Each, Maybe, read_json
from engram.storage.safetensors_headers import INDEX_FILE, SINGLE_FILE
from engram.storage.stored import read_folder_headers

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
    for name, shape in _SHAPES.items():
        if (folder / name).exists() and not (name == INDEX_FILE and _is_single(folder)):
            read_json(folder / name, shape, hint=COPY_AGAIN)
    for path in sorted({info.path for info in (read_folder_headers(folder) or {}).values()}):
        _check_weights(path)
    _check_generation_config(folder)
    _check_config(folder, config_class, model_class)


def _is_single(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file()


def _check_weights(path: Path) -> None:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except Exception as error:
        raise _damaged(path, error) from None


def _check_generation_config(folder: Path) -> None:
    from transformers import GenerationConfig

    if not (folder / GENERATION_FILE).is_file():
        return
    try:
        GenerationConfig.from_pretrained(folder)
    except Exception as error:
        raise _damaged(folder / GENERATION_FILE, error) from None


def _check_config(folder: Path, config_class: Any, model_class: Any) -> None:
    """Build the model of the config alone, without weights and without what the caller asked."""
    import torch

    try:
        config = config_class.from_pretrained(folder)
        with torch.device("meta"):
            model_class(config)
    except Exception as error:
        raise _damaged(folder / "config.json", error) from None


def _damaged(path: Path, error: Exception) -> CorruptFileError:
    what = f"{type(error).__name__}: {error}".rstrip(".")
    return CorruptFileError(f"{path} is damaged: {what}.", COPY_AGAIN, path=str(path))

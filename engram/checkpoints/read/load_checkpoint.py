"""Loads attached checkpoints, and bases with an adapter; finds the damage in those that fail."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from engram.arguments import checked
from engram.checkpoints.read.attached_files import CONFIG_FILE, damaged
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.joined_adapter import joined_folder, open_adapter, pinned_revision
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import CorruptFileError, EngramError, InputError, LayoutError, UsageError
from engram.storage.hub import probe
from engram.storage.json_files import COPY_AGAIN, OBJECT, TEXT, Each, Maybe, read_json
from engram.storage.safetensors_headers import INDEX_FILE, SINGLE_FILE
from engram.storage.stored import read_folder_headers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MODEL_CODE = "AutoModelForCausalLM"
_GENERATION_FILE = "generation_config.json"
# Files that transformers reads with the weights, and what it takes for granted of them.
_SHAPES = {
    _GENERATION_FILE: OBJECT,
    INDEX_FILE: {"metadata": Maybe(OBJECT), "weight_map": Each(TEXT)},
}


@checked(cache_rows=0)
def load(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    revision: str | None = None,
    adapter_revision: str | None = None,
    trust_remote_code: bool = False,
    tables: Literal["ram", "disk"] = "ram",
    cache_rows: int = 0,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load an attached checkpoint as a transformers model.

    Args:
        model: Folder or hub id of a checkpoint that `engram attach` or `save_pretrained` wrote;
            with an adapter, of its base.
        adapter: Folder or hub id of a memory that `engram attach --adapter` wrote.
        revision: Branch, tag or commit of the model on the hub; with an adapter, the commit of its
            base that it was made for when None.
        adapter_revision: Branch, tag or commit of the adapter on the hub.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        tables: Place of the tables: ``ram``: in memory like other weights; ``disk``: in the
            checkpoint's files, from which rows are read. Such tables cannot be trained, and may be
            larger than memory.
        cache_rows: Rows of each table on disk that are kept in memory; 0 leaves caching to the
            system.
        **kwargs: What `from_pretrained` takes, such as dtype (the checkpoint's own by default) or
            device_map.

    Returns:
        A `PreTrainedModel` in evaluation mode.

    Raises:
        MissingFileError: There is no such folder or model.
        DependencyError: The installed transformers or torch is not supported.
        LayoutError: It has no memory.
        CorruptFileError: What its files say about the memory is damaged.
        InputError: Its base is code, and that is not trusted.
        MismatchError: Its memory is incomplete, its addresses are not those of its fingerprint, or
            the adapter was made for another base.
        UsageError: `tables` is neither, or rows are to be cached of tables in memory; or there is a
            revision of an adapter, and no adapter.

    Examples:
        >>> import engram
        >>> engram.load("attached").training
        False
    """
    kwargs |= {"tables": tables, "cache_rows": cache_rows}
    if adapter is not None:
        memory = open_adapter(
            resolve_model(adapter, adapter_revision, trust_remote_code=trust_remote_code)
        )
        revision = pinned_revision(model, memory) if revision is None else revision
        folder = resolve_model(model, revision, trust_remote_code=trust_remote_code)
        joined = joined_folder(folder, memory)
        try:
            loaded = load(joined.name, trust_remote_code=trust_remote_code, **kwargs)
        except BaseException:
            joined.cleanup()
            raise
        # Weights that are offloaded to disk are read from there as long as the model lives.
        weakref.finalize(loaded, joined.cleanup)
        loaded.config.name_or_path = loaded.name_or_path = str(model)
        return loaded
    if adapter_revision is not None:
        raise UsageError(
            f"adapter_revision is {adapter_revision!r}, and there is no adapter.",
            "Give the adapter, or revision for the model's own.",
        )
    return load_opened(
        open_checkpoint(model, revision, short_names=True), trust_remote_code, **kwargs
    )


def load_opened(
    opened: Checkpoint, trust_remote_code: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Load an attached checkpoint that was opened; see `load` for arguments and errors."""
    model = opened.path or opened.name
    if opened.adapter:
        raise LayoutError(
            f"{model} is an adapter: a memory without its base.",
            f'Load both: engram.load(BASE, "{model}")',
            model=str(model),
            base=opened.adapter["base"]["name"],
        )
    opened.demand_config()
    if opened.stated is None:
        raise LayoutError(
            f"{model} has no memory.",
            "Attach one: engram attach MODEL -c CONFIG -o FOLDER",
            model=str(model),
        )
    from engram.hf import compat

    compat.check()
    opened.demand_settings()
    code = opened.base.code
    if code is not None and not trust_remote_code:
        from engram.hf.admission import not_trusted

        raise not_trusted(model, code[_MODEL_CODE])
    config_class, model_class = classes_of(opened)
    kwargs.setdefault("dtype", "auto")
    if opened.path is None and probe(opened.name, CONFIG_FILE, opened.revision) is not None:
        kwargs.setdefault("local_files_only", True)  # transformers would retry for every file
    try:
        return cast(
            "PreTrainedModel",
            model_class.from_pretrained(model, revision=opened.revision or "main", **kwargs),
        )
    except EngramError:
        raise
    except Exception as error:  # transformers raises whatever a damaged file leads to
        if opened.path is not None:
            try:
                _find_damage(opened.path, config_class, model_class)
            except EngramError as damage:
                raise damage from error
        raise


def classes_of(opened: Checkpoint) -> tuple[Any, Any]:
    """Return config class and model class of an attached checkpoint.

    Args:
        opened: The checkpoint; code that its base's own classes are in is trusted.

    Raises:
        CorruptFileError: The config does not name the classes.
        LayoutError: transformers has no such model.
    """
    from engram.hf.compat import get_class_from_dynamic_module
    from engram.hf.families import model_classes

    config, has_code = opened.model_config, opened.base.code is not None
    key, values = (_MODEL_CODE, config.get("auto_map")) if has_code else ("model_type", config)
    name = values.get(key) if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise damaged(opened.where, f"{key} is {name!r:.80}, not a text")
    if not has_code:
        return model_classes(name)
    model_class = get_class_from_dynamic_module(
        name, str(opened.path or opened.name), revision=opened.revision
    )
    return model_class.config_class, model_class


def _find_damage(folder: Path, config_class: Any, model_class: Any) -> None:
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
    if (folder / _GENERATION_FILE).is_file():
        from transformers import GenerationConfig

        readers[folder / _GENERATION_FILE] = partial(GenerationConfig.from_pretrained, folder)
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

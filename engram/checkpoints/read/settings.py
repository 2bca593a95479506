"""Reads what attaching wrote about a memory, in a config.json that anyone may have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engram.checkpoints.read.attached_files import CARD_FILE, CONFIG_FILE
from engram.errors import CorruptFileError
from engram.storage.file_names import is_inside, is_weight_file
from engram.storage.json_files import COPY_AGAIN
from engram.storage.safetensors_headers import INDEX_FILE

_KINDS: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}
_REPLACED = (CONFIG_FILE, CARD_FILE, INDEX_FILE)


@dataclass(frozen=True)
class BaseFiles:
    """Where the base's own files are in an attached folder; every name stays inside of it.

    Attributes:
        shards: Its weight files: name in the base, and name here; None where the folder was saved
            anew since.
        sidecars: Its other files, by name here and there.
        replaced: Files of which the folder has its own version.
        code: Its entries of `auto_map`, where it is code beside its weights.
    """

    shards: dict[str, str] | None
    sidecars: list[str]
    replaced: list[str]
    code: dict[str, str] | None


def stated_settings(model_config: Any, where: str) -> dict[str, Any] | None:
    """Return the key ``engram`` of a model's config; None where there is none.

    Args:
        model_config: The config.
        where: The file that holds it.

    Raises:
        CorruptFileError: It is there, and no object.
    """
    settings = model_config.get("engram") if isinstance(model_config, Mapping) else None
    if settings is not None and not isinstance(settings, dict):
        raise damaged(where, f"engram is {settings!r:.80}, not an object")
    return settings


def base_files(settings: Mapping[str, Any], where: str) -> BaseFiles:
    """Read which files of an attached folder are the base's own.

    Args:
        settings: What `stated_settings` returned.
        where: The file that holds it.

    Raises:
        CorruptFileError: Something is missing, of another type, or names a file outside.
    """
    base = demand(settings, "base", dict, where)
    files, code = base.get("files"), base.get("auto_map")
    if files is not None:
        files = demand(base, "files", dict, where, "engram.base.")
        _check_names([*files, *files.values()], is_weight_file, "files", where)
    elif "files" not in base:
        raise damaged(where, "engram.base.files is missing")
    sidecars = demand(base, "sidecars", list, where, "engram.base.")
    _check_names(sidecars, _is_sidecar, "sidecars", where)
    replaced = demand(base, "replaced", list, where, "engram.base.")
    _check_names(replaced, lambda name: name in _REPLACED, "replaced", where)
    if code is not None:
        code = demand(base, "auto_map", dict, where, "engram.base.")
        demand(code, "AutoModelForCausalLM", str, where, "engram.base.auto_map.")
    return BaseFiles(files, sidecars, replaced, code)


def damaged(where: str, what: str) -> CorruptFileError:
    """The error for a file that is not what attaching writes."""
    return CorruptFileError(
        f"{where} is not what attaching writes: {what}.",
        COPY_AGAIN,
        path=where,
    )


def demand(values: Any, key: str, kind: type[Any], where: str, inside: str = "engram.") -> Any:
    """Take a value out of what attaching wrote.

    Args:
        values: The object that should hold it.
        key: Its key there.
        kind: What it should be: a dict, list or str.
        where: The file, for messages.
        inside: What comes before the key in messages.

    Raises:
        CorruptFileError: It is missing, or of another type.
    """
    if not isinstance(values, Mapping) or key not in values:
        raise damaged(where, f"{inside}{key} is missing")
    value = values[key]
    if not isinstance(value, kind):
        raise damaged(where, f"{inside}{key} is {value!r:.80}, not {_KINDS[kind]}")
    return value


def _is_sidecar(name: object) -> bool:
    return is_inside(name) and not is_weight_file(name) and name not in _REPLACED


def _check_names(names: list[Any], right: Callable[[object], bool], key: str, where: str) -> None:
    for name in names:
        if not right(name):
            what = f"engram.base.{key} names {name!r:.200}, which attaching never writes there"
            raise damaged(where, what)

"""Reads what attaching wrote about a memory, in a config.json that anyone may have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.checkpoints.read.attached_files import CARD_FILE, CONFIG_FILE
from engram.config.engram_config import EngramConfig
from engram.errors import ConfigError, CorruptFileError
from engram.storage.file_names import is_inside, is_weight_file
from engram.storage.json_files import COPY_AGAIN
from engram.storage.safetensors_headers import INDEX_FILE

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses

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


def stated_config(settings: Mapping[str, Any], where: str) -> EngramConfig:
    """Read the config of a memory.

    Args:
        settings: What `stated_settings` returned.
        where: The file that holds it.

    Raises:
        CorruptFileError: It is missing, or of another type.
        ConfigError: It is wrong.
    """
    try:
        return EngramConfig.from_dict(_value(settings, "config", dict, where, "engram."))
    except ConfigError as error:
        hint = COPY_AGAIN
        raise ConfigError(error.problems, f"engram.config of {where}", hint) from None


def stated_addresses(settings: Mapping[str, Any], config: EngramConfig, where: str) -> Addresses:
    """Read the constants of a memory, without their token map.

    Args:
        settings: What `stated_settings` returned.
        config: The memory.
        where: The file that holds it.

    Raises:
        CorruptFileError: Something is missing, or of another type.
        LayoutError: Its layout is unknown.
        MismatchError: They are not those of their fingerprint, or of the config.
    """
    # These import numpy, which reports do without.
    from engram.addressing.addresses import Addresses
    from engram.addressing.same_config import check_shape

    stored = _value(settings, "addresses", dict, where, "engram.")
    try:
        addresses = Addresses.from_dict(stored)
    except CorruptFileError as error:
        raise damaged(where, error.message.rstrip(".")) from None
    check_shape(addresses, config, where)
    return addresses


def stated_layers_path(settings: Mapping[str, Any], where: str) -> str:
    """Read the dotted name of the list of layers in the model.

    Args:
        settings: What `stated_settings` returned.
        where: The file that holds it.

    Raises:
        CorruptFileError: It is missing, or not a text.
    """
    path: str = _value(settings, "layers_path", str, where, "engram.")
    return path


def base_files(settings: Mapping[str, Any], where: str) -> BaseFiles:
    """Read which files of an attached folder are the base's own.

    Args:
        settings: What `stated_settings` returned.
        where: The file that holds it.

    Raises:
        CorruptFileError: Something is missing, of another type, or names a file outside.
    """
    base = _value(settings, "base", dict, where, "engram.")
    files, code = base.get("files"), base.get("auto_map")
    if files is not None:
        files = _value(base, "files", dict, where)
        _check_names([*files, *files.values()], is_weight_file, "files", where)
    elif "files" not in base:
        raise damaged(where, "engram.base.files is missing")
    sidecars = _value(base, "sidecars", list, where)
    _check_names(sidecars, _is_sidecar, "sidecars", where)
    replaced = _value(base, "replaced", list, where)
    _check_names(replaced, lambda name: name in _REPLACED, "replaced", where)
    if code is not None:
        code = _value(base, "auto_map", dict, where)
        _value(code, "AutoModelForCausalLM", str, where, "engram.base.auto_map.")
    return BaseFiles(files, sidecars, replaced, code)


def damaged(where: str, what: str) -> CorruptFileError:
    """The error for a file that is not what attaching writes."""
    return CorruptFileError(
        f"{where} is not what attaching writes: {what}.",
        COPY_AGAIN,
        path=where,
    )


def _value(values: Any, key: str, kind: type[Any], where: str, inside: str = "engram.base.") -> Any:
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

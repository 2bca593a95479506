"""Excludes memories from transformers' quantisers.

A quantiser replaces every projection that is not in the skip list of its config, including those of
a memory, whose weights are not quantised. So a memory's modules are added to that list.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engram.backbone.quantisation import (
    QUANTISATION,
    Method,
    check_packages,
    find_method,
    method_name,
    quantised_part,
    stated_quantisation,
)
from engram.config.engram_config import EngramConfig
from engram.errors import DependencyError
from engram.hf import compat
from engram.hf.tables import HUB_OPTIONS
from engram.tensor_names import module_name

_NOT_IN_TAGS = ("model", "layers")
_CONFIG_OPTIONS = (*HUB_OPTIONS, "subfolder", "trust_remote_code")


def keep_memory_out(
    model_config: Mapping[str, Any], config_class: Any, model_class: Any
) -> dict[str, Any]:
    """Write the memory's modules into the skip list of an attached checkpoint's config.

    Args:
        model_config: The checkpoint's config.json, with its ``engram`` part.
        config_class: The checkpoint's config class.
        model_class: Its model class, which derives from the base's.

    Returns:
        The config, changed only where the base is quantised.

    Raises:
        LayoutError: The method is unknown.
    """
    part = quantised_part(model_config)
    if part is None:
        return dict(model_config)
    quantisation = part[QUANTISATION]
    method = find_method(method_name(quantisation))
    key, listed = list_without_memory(
        method,
        quantisation,
        model_config["engram"],
        lambda: model_class.__bases__[1](config_class.from_dict(model_config)),
    )
    changed = {**part, QUANTISATION: {**quantisation, key: listed}}
    return changed if part is model_config else {**model_config, "text_config": changed}


def list_without_memory(
    method: Method,
    stated: Mapping[str, Any],
    settings: Mapping[str, Any],
    base: Callable[[], nn.Module],
) -> tuple[str, list[Any]]:
    """Extend a method's list of modules to exclude memories from quantisation.

    Args:
        method: The method.
        stated: Its config, or the relevant keys of it.
        settings: The ``engram`` part of a checkpoint's config.json.
        base: Makes the base, which is looked at where the config has no list.

    Returns:
        The key and its new value.
    """
    key = next((key for key in method.keys if stated.get(key) is not None), method.keys[0])
    listed: Any = stated.get(key)
    layers_path = settings["layers_path"]
    if listed is None:
        with torch.device("meta"):
            if method.entries is None:
                # A list of lists, each quantised together; the default is one list.
                listed = [_projections(base(), layers_path)]
            elif method.unset == "kept":
                listed = sorted(compat.get_modules_to_not_convert(base()))
            else:
                listed = list(method.unset)
    if method.entries is None:
        return key, listed
    config = EngramConfig.from_dict(settings["config"])
    weights = [name for name in config.rules.dense_shapes(config.sizes) if name.endswith(".weight")]
    paths = [module_name(layers_path, it["layer_id"]) for it in settings["addresses"]["layers"]]
    listed = list(listed)
    for path, weight in product(sorted(paths), weights):
        name = f"{path}.{weight.removesuffix('.weight')}"
        tag = [it for it in name.split(".") if not (it in _NOT_IN_TAGS or it.isnumeric())]
        entry = method.entries.format(
            path=path, escaped=re.escape(path), name=name, tag=".".join(tag)
        )
        if entry not in listed:
            listed.append(entry)
    return key, listed


def _projections(model: nn.Module, layers_path: str) -> list[str]:
    """Name the modules inside a layer that can be quantised, such as ``mlp.up_proj``."""
    kinds = (nn.Linear, nn.Conv2d, compat.Conv1D.find())
    inside = (
        name.removeprefix(f"{layers_path}.").partition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(f"{layers_path}.") and isinstance(module, kinds)
    )
    return list(dict.fromkeys(inside))


@contextmanager
def quantised_loading(
    base_class: Any, config_class: Any, model: Any, options: dict[str, Any]
) -> Iterator[None]:
    """Load a model in this context, so that its memories are not quantised.

    The checkpoint's own config already excludes them; a ``quantization_config`` among the options,
    for weights that are quantised while they are loaded, is copied and extended.

    Args:
        base_class: The model's class, without a memory.
        config_class: Its config class.
        model: Folder or hub id, as `from_pretrained` takes it.
        options: Other arguments of `from_pretrained`; changed in place.

    Raises:
        MissingPackageError: A package of the method is not installed.
        DependencyError: A package has a version that transformers does not support.
        LayoutError: The method is unknown.
    """
    config = _config(config_class, model, options)
    given, stored = options.get(QUANTISATION), _stored(config)
    if given is None and stored is None:
        yield
        return
    loaded = stored or _values(given)
    check_packages(loaded)
    name = method_name(loaded)
    if given is not None:
        made = options[QUANTISATION] = copy.deepcopy(given)
        values = _values(made)
        method = find_method(method_name(values))
        # Methods that only load quantised weights have no such list.
        if isinstance(made, dict) or any(key in values for key in method.keys):
            base = partial(base_class, config)
            key, listed = list_without_memory(method, values, config.engram, base)
            values[key] = listed
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"A model quantised with {name} cannot be loaded here: {str(error).strip()}",
            "Install the version that the message names.",
            quant_method=name,
        ) from error


def reason_not_loaded(config: Mapping[str, Any]) -> str | None:
    """Ask transformers whether a quantised checkpoint can be loaded on this machine.

    Args:
        config: Its config.json.

    Returns:
        The reason that it cannot, such as a missing GPU; None when it can, or is not quantised.

    Raises:
        MissingPackageError: A package of the method is not installed.
        LayoutError: The method is unknown.
    """
    quantisation = stated_quantisation(config)
    if quantisation is None:
        return None
    check_packages(quantisation)
    try:
        quantiser = compat.quantiser_from_config(copy.deepcopy(quantisation), pre_quantized=True)
        quantiser.validate_environment(device_map=None, weights_only=True)
    except (ImportError, RuntimeError, ValueError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def has_quantised_weights(model: Any) -> bool:
    """Whether a model's weights are quantised; some methods dequantise without a GPU."""
    return getattr(model, "hf_quantizer", None) is not None


def dequantise(model: Any) -> bool:
    """Turn a model's quantised weights into floats of its own dtype, in place.

    Returns:
        Whether they are floats now; some methods do not support it.
    """
    if not has_quantised_weights(model):
        return True
    # Set the dtype: by default the projections would become floats of another dtype than the rest.
    dtype = model.dtype
    try:
        model.dequantize(dtype=dtype)
    except (NotImplementedError, AttributeError, RuntimeError, ValueError):
        return False
    return not has_quantised_weights(model)


def _config(config_class: Any, model: Any, options: Mapping[str, Any]) -> Any:
    given = options.get("config")
    if given is not None and not isinstance(given, (str, Path)):
        return given
    passed = {name: options[name] for name in _CONFIG_OPTIONS if name in options}
    return config_class.from_pretrained(given or model, **passed)


def _stored(config: Any) -> dict[str, Any] | None:
    parts = (config, config.get_text_config())
    stated = (getattr(part, QUANTISATION, None) for part in parts)
    return next((_values(it) for it in stated if it is not None), None)


def _values(quantisation: Any) -> dict[str, Any]:
    """Return the values of a quantisation's config, a dict or an object; changes change it."""
    return quantisation if isinstance(quantisation, dict) else vars(quantisation)

"""Quantised bases: each method's skip list and packages, and the memory's entries in that list.

A quantiser of transformers replaces every projection that its config does not name, those of a
memory included, whose weights are stored as they are. So a memory's modules join that list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engram.errors import InputError, LayoutError, MissingPackageError
from engram.seams import installed_version

QUANTISATION = "quantization_config"


@dataclass(frozen=True)
class Memories:
    """Modules of a checkpoint's memories.

    Attributes:
        paths: Full names, such as ``model.layers.1.engram``.
        parts: Names inside each of the modules that have weights, such as ``value_proj``.
    """

    paths: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class BaseModules:
    """Modules of a base model, for skip lists that its config leaves out.

    Attributes:
        kept: Full names of what transformers quantises by no method, such as ``lm_head``.
        projections: Names inside of a layer of what can be quantised, such as ``mlp.up_proj``.
    """

    kept: tuple[str, ...]
    projections: tuple[str, ...]


def _by_prefix(memories: Memories) -> list[str]:
    """A module's name stands for all inside; read as a regular expression from the name's start."""
    return list(memories.paths)


def _by_full_name(memories: Memories) -> list[str]:
    return [f"{path}.{part}" for path in memories.paths for part in memories.parts]


def _by_pattern(memories: Memories) -> list[str]:
    """Without the prefix ``re:`` compressed-tensors takes full names and names of classes."""
    return [f"re:{re.escape(path)}\\..*" for path in memories.paths]


def _by_wildcard(memories: Memories) -> list[str]:
    return [f"{path}.*" for path in memories.paths]


def _by_tag(memories: Memories) -> list[str]:
    """HQQ's names have no numbers in them, nor ``model`` and ``layers``."""
    left_out = ("model", "layers")
    tags = (
        ".".join(it for it in name.split(".") if it not in left_out and not it.isnumeric())
        for name in _by_full_name(memories)
    )
    return list(dict.fromkeys(tags))


@dataclass(frozen=True)
class Method:
    """A method of quantisation that transformers loads.

    Attributes:
        packages: Distributions without which it does not load.
        keys: Config keys of the list of modules: the first that is set counts, or else the first.
        entries: Makes the memory's entries in it; None where the list names what is quantised.
        unset: List that a config without one stands for; "kept" for what transformers chooses.
    """

    packages: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("modules_to_not_convert",)
    entries: Callable[[Memories], list[str]] | None = _by_prefix
    unset: Literal["kept"] | tuple[str, ...] = "kept"


METHODS = {
    "aqlm": Method(("accelerate", "aqlm"), ("linear_weights_not_to_quantize",), unset=()),
    "auto-round": Method(("auto-round",), unset=()),
    "awq": Method(("accelerate", "gptqmodel"), unset=()),
    "bitnet": Method(("accelerate",)),
    "bitsandbytes": Method(("accelerate", "bitsandbytes"), ("llm_int8_skip_modules",)),
    "compressed-tensors": Method(
        ("compressed-tensors",), ("ignore",), entries=_by_pattern, unset=()
    ),
    "eetq": Method(("accelerate", "kernels")),
    "fbgemm_fp8": Method(("accelerate",)),
    "fouroversix": Method(("fouroversix",), entries=_by_full_name, unset=("lm_head",)),
    "fp8": Method(("accelerate",), ("modules_to_not_convert", "ignored_layers")),
    "fp_quant": Method(("fp-quant",), entries=_by_full_name, unset=("lm_head",)),
    "gemma": Method(),
    "gptq": Method(("optimum", "gptqmodel"), ("modules_in_block_to_quantize",), entries=None),
    "higgs": Method(("accelerate", "flute-kernel", "fast-hadamard-transform")),
    "hqq": Method(("hqq",), ("skip_modules",), entries=_by_tag, unset=("lm_head",)),
    "metal": Method(("kernels",)),
    "mxfp4": Method(("accelerate",)),
    "mxfp8": Method(("accelerate",), ("modules_to_not_convert", "ignored_layers")),
    "nvfp4": Method(("kernels",)),
    "quanto": Method(("accelerate", "optimum-quanto")),
    "quark": Method(("amd-quark",), ("exclude",), entries=_by_wildcard, unset=()),
    "sinq": Method(("sinq",), unset=()),
    "spqr": Method(("accelerate", "spqr_quant")),
    "torchao": Method(("torchao",)),
    "vptq": Method(("accelerate", "vptq")),
}


def stated_quantisation(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a config.json says about quantised weights; None when they are not quantised."""
    part = quantised_part(config)
    return None if part is None else part[QUANTISATION]


def method_name(quantisation: Mapping[str, Any]) -> str:
    """Return the name of a method of quantisation, as transformers' registry has it.

    Args:
        quantisation: The ``quantization_config`` of a config.json.

    Raises:
        LayoutError: It does not name the method.
    """
    if quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit"):
        return "bitsandbytes"
    name = quantisation.get("quant_method")
    if name is None:
        raise LayoutError(
            "quantization_config in config.json does not name its quant_method.",
            "Restore the config.json that belongs to these weights.",
        )
    return str(getattr(name, "value", name))


def quantisation_method(config: Mapping[str, Any]) -> str | None:
    """Return the method of a config.json's quantisation; None when it has none."""
    quantisation = stated_quantisation(config)
    return None if quantisation is None else method_name(quantisation)


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        LayoutError: It is unknown here.
    """
    if name not in METHODS:
        raise LayoutError(
            f"A memory cannot be kept out of the quantisation method {name!r}, whose skip list is "
            "unknown here.",
            f"Use a model without quantisation, or one of: {', '.join(METHODS)}.",
            quant_method=name,
        )
    return METHODS[name]


def list_without_memory(
    method: Method,
    stated: Mapping[str, Any],
    memories: Memories,
    base: Callable[[], BaseModules],
) -> tuple[str, list[Any]]:
    """Extend a method's list of modules so that memories are not quantised.

    Args:
        method: The method.
        stated: Its config, or the keys of it that matter.
        memories: The memories.
        base: Builds the base, where the config leaves the list out.

    Returns:
        The key and its new value.
    """
    key = next((key for key in method.keys if stated.get(key) is not None), method.keys[0])
    listed = stated.get(key)
    if method.entries is None:
        # A list of lists, each quantised together; by default there is one.
        return key, [list(base().projections)] if listed is None else listed
    if listed is None:
        listed = base().kept if method.unset == "kept" else method.unset
    return key, [*listed, *(it for it in method.entries(memories) if it not in listed)]


def missing_packages(name: str) -> list[str]:
    """Name the packages that a method of quantisation needs and that are not installed.

    Raises:
        LayoutError: The method is unknown here.
    """
    return [it for it in find_method(name).packages if installed_version(it) is None]


def check_packages(config: Mapping[str, Any]) -> None:
    """Check that the packages which a quantised base needs are installed.

    Args:
        config: Its config.json, or that of a checkpoint attached to it.

    Raises:
        MissingPackageError: One is not.
        LayoutError: The method is unknown here.
    """
    name = quantisation_method(config)
    if name is not None:
        demand_packages(name)


def demand_packages(name: str) -> None:
    """Check that the packages which a method of quantisation needs are installed.

    Raises:
        MissingPackageError: One is not.
        LayoutError: The method is unknown here.
    """
    for package in missing_packages(name):
        raise MissingPackageError(package, None, f"A model quantised with {name}")


def quantisation_note(config: Mapping[str, Any]) -> str | None:
    """Say how a base is quantised and what loading it takes; None when it is not quantised.

    Raises:
        LayoutError: The method is unknown here.
    """
    name = quantisation_method(config)
    if name is None:
        return None
    needed, missing = find_method(name).packages, missing_packages(name)
    text = f"The base is quantised with {name}; the memory is not"
    if needed:
        text += f". Loading needs {' and '.join(needed)}"
    if missing:
        text += f" (not installed here: pip install {' '.join(missing)})"
    return f"{text}."


def base_params(config: Mapping[str, Any]) -> int | None:
    """Count the parameters of a quantised base from its config, since its weights are packed.

    Args:
        config: Its config.json, or that of a checkpoint attached to it.

    Returns:
        Their number before it was quantised; None when it is not quantised, or when its family has
        no closed form here.
    """
    from engram.backbone.facts import Backbone  # which needs this module in turn

    if stated_quantisation(config) is None:
        return None
    try:
        return Backbone.from_config(config, "", "").params
    except InputError:
        return None


def quantised_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of a config that states a quantisation: the whole, or its text model's."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and isinstance(part.get(QUANTISATION), dict):
            return part
    return None

"""Quantised bases: the quantisation in a config.json, and each method's packages and skip list."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engram.errors import LayoutError, MissingPackageError
from engram.seams import installed_version

QUANTISATION = "quantization_config"


@dataclass(frozen=True)
class Method:
    """A method of quantisation that transformers loads.

    Attributes:
        packages: Distributions that loading needs.
        keys: Config keys of the list of modules: the first that is set is used, or else the first.
        entries: Form of the memory's entries, with the `path` of a module, `escaped` for a regular
            expression, and the `name` of a part; HQQ's `tag` is that name without numbers,
            ``model`` and ``layers``. None if the list has the modules to quantise.
        unset: The list of a config without one; "kept" for the choice of transformers.
    """

    packages: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("modules_to_not_convert",)
    entries: str | None = "{path}"
    unset: Literal["kept"] | tuple[str, ...] = "kept"


METHODS = {
    "aqlm": Method(("accelerate", "aqlm"), ("linear_weights_not_to_quantize",), unset=()),
    "auto-round": Method(("auto-round",), unset=()),
    "awq": Method(("accelerate", "gptqmodel"), unset=()),
    "bitnet": Method(("accelerate",)),
    "bitsandbytes": Method(("accelerate", "bitsandbytes"), ("llm_int8_skip_modules",)),
    # Without the prefix "re:" its entries are full names or classes.
    "compressed-tensors": Method(
        ("compressed-tensors",), ("ignore",), entries="re:{escaped}\\..*", unset=()
    ),
    "eetq": Method(("accelerate", "kernels")),
    "fbgemm_fp8": Method(("accelerate",)),
    "fouroversix": Method(("fouroversix",), entries="{name}", unset=("lm_head",)),
    "fp8": Method(("accelerate",), ("modules_to_not_convert", "ignored_layers")),
    "fp_quant": Method(("fp-quant",), entries="{name}", unset=("lm_head",)),
    "gemma": Method(),
    "gptq": Method(("optimum", "gptqmodel"), ("modules_in_block_to_quantize",), entries=None),
    "higgs": Method(("accelerate", "flute-kernel", "fast-hadamard-transform")),
    "hqq": Method(("hqq",), ("skip_modules",), entries="{tag}", unset=("lm_head",)),
    "metal": Method(("kernels",)),
    "mxfp4": Method(("accelerate",)),
    "mxfp8": Method(("accelerate",), ("modules_to_not_convert", "ignored_layers")),
    "nvfp4": Method(("kernels",)),
    "quanto": Method(("accelerate", "optimum-quanto")),
    "quark": Method(("amd-quark",), ("exclude",), entries="{path}.*", unset=()),
    "sinq": Method(("sinq",), unset=()),
    "spqr": Method(("accelerate", "spqr_quant")),
    "torchao": Method(("torchao",)),
    "vptq": Method(("accelerate", "vptq")),
}


def stated_quantisation(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the quantisation in a config.json; None if the weights are not quantised."""
    part = quantised_part(config)
    return None if part is None else part[QUANTISATION]


def method_name(quantisation: Mapping[str, Any]) -> str:
    """Return the name of a method of quantisation in the registry of transformers.

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
    """Return the method of a config.json's quantisation; None if there is none."""
    quantisation = stated_quantisation(config)
    return None if quantisation is None else method_name(quantisation)


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        LayoutError: It is unknown.
    """
    if name not in METHODS:
        raise LayoutError(
            f"A memory cannot be excluded from quantisation by {name!r}, whose skip list is "
            "unknown here.",
            f"Use a model without quantisation, or one of: {', '.join(METHODS)}.",
            quant_method=name,
        )
    return METHODS[name]


def missing_packages(name: str) -> list[str]:
    """Return the missing packages of a method of quantisation.

    Raises:
        LayoutError: The method is unknown.
    """
    return [it for it in find_method(name).packages if installed_version(it) is None]


def check_packages(quantisation: Mapping[str, Any]) -> None:
    """Check that the packages of a method of quantisation are installed.

    Args:
        quantisation: The ``quantization_config`` of a config.json.

    Raises:
        MissingPackageError: One is missing.
        LayoutError: The method is unknown, or is not named.
    """
    name = method_name(quantisation)
    for package in missing_packages(name):
        raise MissingPackageError(package, None, f"A model quantised with {name}")


def quantisation_note(config: Mapping[str, Any]) -> str | None:
    """Describe a base's quantisation and the packages for it; None if it is not quantised.

    Raises:
        LayoutError: The method is unknown.
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


def quantised_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of a config with the quantisation: the top level or the text model."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and isinstance(part.get(QUANTISATION), dict):
            return part
    return None

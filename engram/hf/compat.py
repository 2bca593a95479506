"""Seams to transformers: the undocumented names that the toolkit uses, in one function each.

They cover two kinds of change: names that differ between the tested releases, which are found by
signature, and names that a future release may drop, which have a probe in `SEAMS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from engram.errors import DependencyError
from engram.nn import compat as torch_seams
from engram.seams import (
    Probed,
    Seam,
    callable_seam,
    installed_version,
    probe,
    require,
    tested_range,
)

PACKAGE = "transformers"
# transformers 5.24 renamed the argument; the old name is an alias until 5.40, and remains the only
# one in code beside the weights of a base.
CACHE_NAMES = ("cache", "past_key_values")
# Auto classes of models that generate text, with the mapping of each.
_GENERATING = {
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING",
}
# First arguments of the method that loads weights, in this order.
_LOADING = ["model", "state_dict", "checkpoint_files"]


def cache_name(forward: Callable[..., Any]) -> str | None:
    """Return the name of a function's argument for a cache of keys and values.

    Args:
        forward: The `forward` of a model, a decoder or a layer.

    Returns:
        ``cache`` or ``past_key_values``; None when it takes neither.
    """
    parameters = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


def rename_cache(arguments: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Rename the cache in keyword arguments to the name that a function expects, in place.

    Args:
        arguments: Keyword arguments with a cache under either name, or without one.
        name: The expected name; None to leave the arguments unchanged.

    Returns:
        The same arguments.
    """
    if name is not None:
        for other in CACHE_NAMES:
            if other != name and other in arguments:
                given = arguments.pop(other)
                if arguments.get(name) is None:
                    arguments[name] = given
    return arguments


def cache_of(outputs: Any) -> Any:
    """Return the cache in the result of a model or of its `prepare_inputs_for_generation`.

    Args:
        outputs: A mapping, or a model's tuple.

    Returns:
        The cache; None where there is none.
    """
    if isinstance(outputs, tuple):
        from transformers import Cache

        return next((it for it in outputs if isinstance(it, Cache)), None)
    return next((outputs[name] for name in CACHE_NAMES if name in outputs), None)


def remember_past(cache: Any) -> None:
    """Have a cache keep states that cropping restores, such as the start of a sliding window."""
    activate = getattr(cache, "activate_past_recording", None)
    if activate is not None:
        activate()


def self_attention_cache(cache: Any) -> Any:
    """Return the part of a cache that holds the decoder's own past; usually the cache itself."""
    return getattr(cache, "self_attention_cache", cache)


def is_paged(cache: Any) -> bool:
    """Whether a cache is for continuous batching, whose rows hold several requests."""
    return any(base.__name__ == "PagedAttentionCache" for base in type(cache).__mro__)


def has_peft_adapter(model: Any) -> bool:
    """Whether a PEFT adapter was loaded into a model by methods of transformers."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def config_class(model_type: str) -> Any:
    """Return transformers' config class of a model type; None if the type is unknown."""
    from transformers import CONFIG_MAPPING

    return _entry(CONFIG_MAPPING, model_type)


def generating_classes(config: Any) -> dict[str, Any]:
    """Return transformers' models of a config class that generate text, by Auto class."""
    import transformers

    found = {
        name: _entry(getattr(transformers, mapping), config)
        for name, mapping in _GENERATING.items()
    }
    return {name: model for name, model in found.items() if model is not None}


def processor_class(config: Any) -> Any:
    """Return transformers' processor of a config class; None when it has none."""
    from transformers import PROCESSOR_MAPPING

    return _entry(PROCESSOR_MAPPING, config)


def tokenizer_class(config: Any) -> Any:
    """Return transformers' tokenizer of a config class; None when it has none of its own."""
    from transformers import TOKENIZER_MAPPING

    return _entry(TOKENIZER_MAPPING, config)


def _entry(mapping: Any, key: Any) -> Any:
    # Lazy mappings fill themselves when they are indexed, not in `get`.
    return mapping[key] if key in mapping else None  # noqa: SIM401


def run_after_init(base: Any, after: Callable[[], Any]) -> dict[str, Any]:
    """Return class members that call a function after a config of a class is initialised.

    Args:
        base: A config class of transformers.
        after: The function.
    """

    def post_init(self: Any, **kwargs: Any) -> None:
        base.__post_init__(self, **kwargs)
        after()

    return {"__post_init__": post_init}


def without_copying() -> dict[str, Any]:
    """Return class members that stop transformers from copying the file of a class on saving."""
    register = classmethod(lambda cls, auto_class=None: None)
    return {"_auto_class": None, "register_for_auto_class": register}


def share_conversions(ours: Mapping[str, str]) -> None:
    """Apply the base's renaming of tensors to the toolkit's types and classes on loading.

    Args:
        ours: The toolkit's names of a type and its classes, by those of transformers.
    """
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    for base, name in ours.items():
        mapping = get_checkpoint_conversion_mapping(base)
        if mapping is not None:
            register_checkpoint_conversion_mapping(name, mapping, overwrite=True)


def saved_name(model: Any, name: str, tensor: Any) -> str:
    """Return the name that `save_pretrained` gives to one of a model's tensors.

    A model loaded from files with other names than its modules is saved with the names of the
    files.

    Args:
        model: The model.
        name: The tensor's name in the model.
        tensor: The tensor, which is saved unchanged.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return str(next(iter(revert_weight_conversion(model, {name: tensor}))))


def with_generation(model_class: Any) -> Any:
    """Return a class of remote code with `generate` added if it lacks it."""
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    return add_generation_mixin_to_remote_model(model_class)


def class_in_folder(reference: str, folder: str, revision: str | None) -> Any:
    """Run the code beside a checkpoint and return the class that it defines.

    Args:
        reference: Module and class, as in ``auto_map``.
        folder: Folder or hub id.
        revision: Branch, tag or commit on the hub.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(reference, folder, revision=revision)


def files_beside(file: str) -> list[str]:
    """Return a module's file and the files beside it that it imports, directly or indirectly."""
    from transformers.dynamic_module_utils import get_relative_import_files

    return [file, *get_relative_import_files(file)]


def weight_loader(model_class: Any) -> Any:
    """Return the method through which `from_pretrained` loads weights.

    There is no public way to exclude a part of a checkpoint from being loaded into memory.

    Raises:
        DependencyError: The installed transformers loads weights in another way.
    """
    load = getattr(model_class, "_load_pretrained_model", None)
    names = [] if load is None else list(inspect.signature(load).parameters)[: len(_LOADING)]
    if names != _LOADING:
        raise DependencyError(
            f"transformers {installed_version(PACKAGE)} is not supported: tables cannot stay on "
            f"disk, as it loads weights from ({', '.join(names) or 'nothing'}) instead of "
            f"({', '.join(_LOADING)}).",
            f"Install a tested version: pip install '{PACKAGE}{tested_range(PACKAGE)}'.",
            transformers=installed_version(PACKAGE),
        )
    return load


def never_quantised(model: Any) -> list[str]:
    """Return the names of modules that transformers never quantises, such as the head.

    Args:
        model: A model on any device, including the meta device.
    """
    from transformers.quantizers import HfQuantizer

    found: list[str] = HfQuantizer.get_modules_to_not_convert(model)
    return found


def turned_linear() -> Any:
    """Return the class of GPT-2's projections: linear, their weights of shape (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return Conv1D


def check_quantiser(quantisation: dict[str, Any]) -> None:
    """Have transformers check that weights of a quantisation can be loaded on this machine.

    Args:
        quantisation: The ``quantization_config`` of a config.json; it may be changed.

    Raises:
        ImportError: A package is missing, or too old.
        RuntimeError: The device that the method needs is missing.
        ValueError: The method does not load from files, or its config contradicts itself.
    """
    from transformers.quantizers import AutoHfQuantizer

    quantiser = AutoHfQuantizer.from_config(quantisation, pre_quantized=True)
    quantiser.validate_environment(device_map=None, weights_only=True)


def probed() -> list[Probed]:
    """Probe every seam to torch and to transformers.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    return [*probe(torch_seams.PACKAGE, torch_seams.SEAMS), *probe(PACKAGE, SEAMS)]


def check() -> None:
    """Raise an error if the installed transformers or torch breaks a seam.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        DependencyError: One of the two is outside the supported range.
    """
    require(probed())


def _generation_takes_a_cache() -> bool:
    from transformers import GenerationMixin

    return cache_name(GenerationMixin.prepare_inputs_for_generation) is not None


def _past_is_recorded() -> bool:
    from transformers import Cache

    return callable(getattr(Cache, "activate_past_recording", remember_past))


def _decoders_have_their_own_cache() -> bool:
    from transformers import DynamicCache, EncoderDecoderCache

    own = DynamicCache()
    return self_attention_cache(EncoderDecoderCache(own, DynamicCache())) is own


def _copies_its_file(name: str) -> bool:
    import transformers

    found = getattr(transformers, name)
    return hasattr(found, "_auto_class") and callable(found.register_for_auto_class)


def _types_are_mapped() -> bool:
    return config_class("llama") is not None and config_class("no such type") is None


def _is_mapped(mapping: str, model_type: str) -> bool:
    import transformers

    return isinstance(_entry(getattr(transformers, mapping), config_class(model_type)), type)


def _weights_are_loaded_as_known() -> bool:
    from transformers import PreTrainedModel

    return callable(weight_loader(PreTrainedModel))


def _headers_are_enough() -> bool:
    from engram.hf.header_loading import loads_from_headers

    return loads_from_headers()


def _adapters_are_flagged() -> bool:
    from transformers.integrations.peft import PeftAdapterMixin

    return hasattr(PeftAdapterMixin, "_hf_peft_config_loaded")


# Methods of a cache that also apply to the memory's past.
_OF_CACHES = (
    *("reset", "crop", "reorder_cache", "batch_repeat_interleave", "batch_select_indices"),
    "get_seq_length",
)
# Mappings from config classes, each with a model type that it contains.
_MAPPINGS = {
    **{"MODEL_FOR_CAUSAL_LM_MAPPING": "llama", "TOKENIZER_MAPPING": "gpt2"},
    **{"MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": "llava", "PROCESSOR_MAPPING": "llava"},
    "MODEL_FOR_MULTIMODAL_LM_MAPPING": "llava",
}
_RENAMES = "loading bases whose tensors are renamed"
_CODE = "bases that are code in their own folder"
_QUANTISED = "memories beside quantised weights"
_CONTINUOUS = "refusing continuous batching before it starts"

SEAMS = (
    Seam(
        "GenerationMixin.prepare_inputs_for_generation(cache or past_key_values)",
        "keeping the memory's past in the cache of a call",
        _generation_takes_a_cache,
    ),
    *(
        callable_seam(PACKAGE, f"Cache.{name}", "applying changes of a cache to the memory's past")
        for name in _OF_CACHES
    ),
    Seam(
        "Cache.activate_past_recording, if there is one",
        "cropping a cache with sliding windows",
        _past_is_recorded,
    ),
    Seam(
        "EncoderDecoderCache.self_attention_cache",
        "the memory's past in caches of two parts",
        _decoders_have_their_own_cache,
    ),
    callable_seam(
        PACKAGE,
        "PreTrainedConfig.__post_init__",
        "making a family's model class when the first config of its type is seen",
    ),
    *(
        Seam(
            f"{name}._auto_class, {name}.register_for_auto_class",
            "saving folders that import the installed toolkit instead of a copy of its files",
            partial(_copies_its_file, name),
        )
        for name in ("PreTrainedConfig", "PreTrainedModel")
    ),
    callable_seam(
        PACKAGE,
        "PreTrainedModel._init_weights",
        "rebuilding constants after loading, and initialising memories as an identity",
        *("self", "module"),
    ),
    Seam("CONFIG_MAPPING", "finding a base's config class by its model_type", _types_are_mapped),
    *(
        Seam(mapping, "finding a base's classes by its config", partial(_is_mapped, mapping, kind))
        for mapping, kind in _MAPPINGS.items()
    ),
    callable_seam(f"{PACKAGE}.conversion_mapping", "get_checkpoint_conversion_mapping", _RENAMES),
    callable_seam(
        f"{PACKAGE}.conversion_mapping",
        "register_checkpoint_conversion_mapping",
        _RENAMES,
        *("model_type_or_class_name", "mapping", "overwrite"),
    ),
    callable_seam(
        f"{PACKAGE}.core_model_loading",
        "revert_weight_conversion",
        "the names of the memory's tensors in a saved folder",
        *("model", "state_dict"),
    ),
    callable_seam(
        f"{PACKAGE}.models.auto.auto_factory", "add_generation_mixin_to_remote_model", _CODE
    ),
    *(
        callable_seam(f"{PACKAGE}.dynamic_module_utils", name, _CODE)
        for name in ("get_class_from_dynamic_module", "get_relative_import_files")
    ),
    Seam(
        f"PreTrainedModel._load_pretrained_model({', '.join(_LOADING)})",
        "tables that stay on disk",
        _weights_are_loaded_as_known,
    ),
    Seam(
        "PreTrainedModel.from_pretrained(None, config, state_dict) of tensors without values",
        "proving from headers that a checkpoint loads whole",
        _headers_are_enough,
    ),
    callable_seam(
        f"{PACKAGE}.quantizers",
        "HfQuantizer.get_modules_to_not_convert",
        _QUANTISED,
        *("model", "skip_modules"),
    ),
    callable_seam(f"{PACKAGE}.quantizers", "AutoHfQuantizer.from_config", _QUANTISED),
    callable_seam(f"{PACKAGE}.pytorch_utils", "Conv1D", _QUANTISED),
    callable_seam(PACKAGE, "GenerationMixin.init_continuous_batching", _CONTINUOUS),
    callable_seam(f"{PACKAGE}.generation.continuous_batching", "PagedAttentionCache", _CONTINUOUS),
    Seam(
        "PeftAdapterMixin._hf_peft_config_loaded",
        "telling a saved adapter from a saved model",
        _adapters_are_flagged,
    ),
)
